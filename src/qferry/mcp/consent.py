"""
Nothing is changed unless a person has agreed to it.

The client is asked to show a form whose question says what will happen, to which migration.  What is irrevocable
wants the name of the source typed.  Where the client can show no form, the tool refuses, or, if the server was started
with `--allow-changes`, does it; what is irrevocable then wants the name as an argument.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

from qferry import commands
from qferry.errors import FerryError, Refused
from qferry.mcp.calls import Ctx, operator, run
from qferry.protocol.records import Migration


class Consent(BaseModel):
    """The form for what can be taken back."""

    go_ahead: bool = Field(title="Go ahead", description="Yes: do it. No: change nothing.")


class TypedName(BaseModel):
    """The form for what cannot."""

    name: str = Field(title="Name of the source", description="Typed by hand, exactly; anything else changes nothing.")


@dataclass(frozen=True)
class Unasked:
    """
    What takes the place of an answer where nobody is asked.

    Args:
        error: Why it must not be done; None: it may.
    """

    error: FerryError | None = None


async def the_one(ctx: Ctx, source: str | None) -> Migration | FerryError:
    """The migration a call is about, or why there is none."""
    try:
        return await run(ctx, commands.find, source)
    except FerryError as error:
        return error


Meant: TypeAlias = Annotated[Migration | FerryError, Resolve(the_one)]
Question: TypeAlias = Callable[[Ctx, Meant], Awaitable["Elicit[Consent] | Unasked"]]


def asks(question: str) -> Question:
    """What asks for consent; `{source}` and `{target}` in the question stand for those of the migration."""

    async def ask(ctx: Ctx, meant: Meant) -> Elicit[Consent] | Unasked:
        return ask_about(ctx, meant, question)

    return ask


def ask_about(ctx: Ctx, meant: Migration | FerryError, question: str, **more: object) -> Elicit[Consent] | Unasked:
    """Ask for consent to something about a migration; the question as for `asks`, `more` for what else is in braces."""
    return unasked(ctx, meant) or Elicit(_filled(question, meant, more), Consent)


def ask_name_about(
    ctx: Ctx, meant: Migration | FerryError, question: str, **more: object
) -> Elicit[TypedName] | Unasked:
    """Ask for the name of the source, in the same way."""
    return unasked(ctx, meant) or Elicit(_filled(f"{question} Type {{source}}.", meant, more), TypedName)


def unasked(ctx: Ctx, meant: object = None) -> Unasked | None:
    """Why nobody is asked, or need be; None: somebody is to be."""
    if isinstance(meant, FerryError):
        return Unasked(meant)
    capabilities = ctx.client_capabilities
    forms = capabilities.elicitation if capabilities is not None else None
    # A client that names no mode knows forms only: there was nothing else at first.
    if forms is not None and (forms.form is not None or forms.url is None):
        return None
    if operator(ctx).allow_changes:
        return Unasked()
    return Unasked(
        Refused(
            "This changes something, and the client cannot ask a person to agree (elicitation).",
            hint="Use a client that can, or start the server with `qferry mcp --allow-changes`; nothing was changed.",
        )
    )


def granted(answer: ElicitationResult[Consent]) -> None:
    """
    Return if it may be done.

    Raises:
        FerryError: It must not.
    """
    given = _given(answer)
    if not isinstance(given, Unasked) and not given.go_ahead:
        raise _declined()


async def granted_for(ctx: Ctx, meant: Migration | FerryError, answer: ElicitationResult[Consent]) -> str:
    """
    The source of the migration on which it may be done.

    Raises:
        FerryError: It must not be done, or another migration has taken the place of the one that was asked about.
    """
    granted(answer)
    return await _unchanged(ctx, meant)


async def named_for(
    ctx: Ctx, meant: Migration | FerryError, answer: ElicitationResult[TypedName], argument: str | None
) -> str:
    """
    The same where the name must have been typed; or given as an argument, if nobody was asked.

    Raises:
        FerryError: As for `granted_for`; or it is another name.
    """
    given = _given(answer)
    name = argument if isinstance(given, Unasked) else given.name
    source = _named(meant).source
    if name != source:
        typed = (
            f"`{name}` is not the name of the source, `{source}`" if name else "The name of the source was not given"
        )
        raise Refused(f"{typed}; nothing was changed.", hint="Give the name of the collection that is left, exactly.")
    return await _unchanged(ctx, meant)


def _given(answer: ElicitationResult[Any]) -> Any:
    if not isinstance(answer, AcceptedElicitation):
        raise _declined()
    if isinstance(answer.data, Unasked) and answer.data.error is not None:
        raise answer.data.error
    return answer.data


def _declined() -> Refused:
    return Refused("The person who was asked has not agreed; nothing was changed.")


async def _unchanged(ctx: Ctx, meant: Migration | FerryError) -> str:
    asked_about = _named(meant)
    now = await run(ctx, commands.find, asked_about.source)
    if now.id != asked_about.id:
        raise Refused(
            f"Meanwhile the migration of `{now.source}` is another one, to `{now.target}`; nothing was changed.",
            hint="Look at the status, then call the tool again.",
        )
    return now.source


def _named(meant: Migration | FerryError) -> Migration:
    if isinstance(meant, FerryError):
        raise meant
    return meant


def _filled(question: str, meant: Migration | FerryError, more: Mapping[str, object]) -> str:
    m = _named(meant)
    filled = question.format(source=f"`{m.source}`", target=f"`{m.target}`", **more)
    # An answer to a question that reads the same counts for it, so it must not read the same for another migration.
    return f"{filled} (Migration {m.id[:8]}, begun {m.created_at}.)"
