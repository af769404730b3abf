"""Images as roots on Linux 6.1: layers by name, which have to fit into a page, and both drivers."""

from __future__ import annotations

import pytest

from tests.image.test_root import (  # noqa: F401
    store,
    test_a_layer_below_is_not_looked_through_by_either,
    test_as_many_layers_as_the_kernel_takes,
    test_both_drivers,
    test_fuse_ends_with_the_sandbox_however_that_goes,
    test_its_layers_stay_while_it_runs,
    test_root_has_the_image_and_writes_to_it,
    test_what_the_image_says_of_its_processes,
)

pytestmark = [pytest.mark.guest, pytest.mark.integration]
