"""Faults in networks over images."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["NETWORKS"]

CONV, PIXELS = "test_conv.py", "test_pixelcnn.py"

NETWORKS = [
    Mutant(
        "a decoder's last convolution does not start at zero",
        "networks/_base.py",
        "        parameter.zero_()",
        "        parameter.mul_(0.1)",
        f"{CONV}::test_start_at_makes_both_networks_exactly_linear",
    ),
    Mutant(
        "channels of an image that come first",
        "networks/_image.py",
        "pixel, channel = np.divmod(columns, n_channels)",
        "channel, pixel = np.divmod(columns, height * width)",
        f"{CONV}::test_pixels_lie_as_reshape_puts_them",
    ),
    Mutant(
        "outputs of categories plane after plane",
        "likelihoods/_categorical.py",
        "        return self.columns_of_inputs()",
        "        return super().columns_of_outputs()",
        f"{CONV}::test_every_likelihood_says_which_column_its_outputs_are_of",
    ),
    Mutant(
        "members' outputs in the order of columns",
        "likelihoods/_mixed.py",
        "own[part][member.columns_of_outputs()]",
        "np.sort(own)[part][member.columns_of_outputs()]",
        f"{CONV}::test_every_likelihood_says_which_column_its_outputs_are_of",
    ),
    Mutant(
        "reshapings that count as activations",
        "networks/_base.py",
        "if not list(layer.parameters()) and not isinstance(layer, RESHAPING):",
        "if not list(layer.parameters()):",
        f"{CONV}::test_hidden_activations_are_rows",
    ),
    Mutant(
        "a pixel that sees the next one",
        "networks/_pixelcnn.py",
        "seen[:, :, half, half:] = 0.0",
        "seen[:, :, half, half + 2 :] = 0.0",
        f"{PIXELS}::test_a_pixel_never_sees_itself_or_a_later_one",
    ),
    Mutant(
        "a channel that sees itself in the first layer",
        "networks/_pixelcnn.py",
        "if own else before < after[:, None]",
        "if own else before <= after[:, None]",
        f"{PIXELS}::test_a_pixel_never_sees_itself_or_a_later_one",
    ),
    Mutant(
        "layers that are blind to their own pixel",
        "networks/_pixelcnn.py",
        "n_channels, own=True)",
        "n_channels, own=False)",
        f"{PIXELS}::test_a_pixel_sees_its_neighbours_above_and_to_the_left",
    ),
    Mutant(
        "a decoder that reads rows in model units",
        "model.py",
        "seen = self.likelihood.encoding.encode(x)\n        rows",
        "seen = x\n        rows",
        f"{PIXELS}::test_images_of_categories_have_probabilities_that_sum_to_1",
    ),
    Mutant(
        "rows with gaps are noticed when their batch comes",
        "model.py",
        "        for block in rows.blocks():\n            _refuse_gaps(block.mask)",
        "        return",
        f"{PIXELS}::test_gaps_are_refused_before_the_first_step",
    ),
    Mutant(
        "a decoder that reads the row is trained to copy it",
        "_state.py",
        'if reads_x and "density" not in objective.offers:',
        "if False:",
        f"{PIXELS}::test_an_objective_without_a_density_is_refused_before_training",
    ),
]
