"""What tests have in common: devices, nodes, networks and models of their own, and what is asked of them."""

import pkgutil

import pytest

# An assertion in here that fails shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
