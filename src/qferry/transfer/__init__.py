"""Points by the page, over gRPC: the copier's way (`relay`), the verifier's (`digest`), and what gRPC cannot show."""
