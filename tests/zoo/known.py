"""Steps that fail for now, with the reason. A strict xfail turns red once one is fixed."""

KNOWN: dict[tuple[str, str], str] = {}
