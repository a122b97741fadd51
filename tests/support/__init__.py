"""What tests have in common: devices, nodes, networks and models of their own, and what is asked of them."""

import pytest

pytest.register_assert_rewrite(__name__)  # an assertion here that fails shows its values
