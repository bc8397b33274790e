"""The tests are packages, so that equal file names in two tiers do not collide and `tests.images` can be imported."""
