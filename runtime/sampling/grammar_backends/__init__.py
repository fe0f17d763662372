"""Grammar compilers by name. A module `x` offers `make(vocabulary) -> GrammarBackend`; it loads its library in there."""
