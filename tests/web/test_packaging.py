"""What is installed has everything the pages are made of."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_templates_and_files_are_in_the_wheel(tmp_path: Path) -> None:
    """All of them, and nothing that is not there."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)  # noqa: S603  our own build
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("qferry/web/")}
    web = ROOT / "src" / "qferry" / "web"
    kept = {f"qferry/web/{path.relative_to(web).as_posix()}" for path in web.rglob("*") if path.is_file()}
    kept = {name for name in kept if "__pycache__" not in name}
    assert packed == kept
    assert any(name.endswith(".html") for name in packed)
    assert {"qferry/web/static/style.css", "qferry/web/static/live.js"} <= packed
