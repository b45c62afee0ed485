"""JSON schema to GBNF."""
def gbnf_of(text: str) -> str:
    raise NotImplementedError
