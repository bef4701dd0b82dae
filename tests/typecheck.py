"""The run-time type checker of the tests: beartype, with an int welcome wherever a float is asked for."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
