"""Faults in training: batches, optimisers, averages, early stopping, seeds."""

from __future__ import annotations

from ._mutant import Mutant

__all__ = ["TRAINING"]

LOOP, PLAYERS, BATCHES = "_training/loop.py", "_training/parameters.py", "_tables/batches.py"

TRAINING = [
    Mutant(
        "the last batch is dropped",
        BATCHES,
        "yield from self.take(taken).split(group)",
        "yield from list(self.take(taken).split(group))[: len(group) - (first + len(group) == n_batches > 1)]",
        "test_data.py::test_batches_are_even_and_drop_no_row",
    ),
    Mutant(
        "rows come in the same order in every epoch",
        BATCHES,
        "order = shuffled(len(self), rng).to(self.device)\n",
        "order = torch.arange(len(self), device=self.device)\n",
        "test_data.py::test_batches_are_shuffled_anew_by_their_generator_alone",
    ),
    Mutant(
        "the last weights are kept in place of their average",
        PLAYERS,
        "self.average.lerp_(self.weights, self.owed)",
        "self.average.copy_(self.weights)",
        "test_training.py::test_average_is_a_power_weighted_mean_of_the_steps",
    ),
    Mutant(
        "early stopping keeps the last epoch in place of the best",
        LOOP,
        "better = result.held_out[-1] > result.held_out[result.best]",
        "better = True",
        "test_training.py::test_best_epoch_is_restored_bit_by_bit",
    ),
    Mutant(
        "the weights at the end are kept, whatever the best were",
        LOOP,
        "self._restore(self.kept)\n        copy_from_first",
        "copy_from_first",
        "test_training.py::test_best_epoch_is_restored_bit_by_bit",
    ),
    Mutant(
        "what an earlier epoch gained counts as rising still",
        LOOP,
        "max(self.held_out[: -max(1, self.n_iter // 10)])",
        "self.held_out[0]",
        "test_endings.py::test_a_bound_still_rises_that_gained_in_the_last_tenth_of_the_epochs",
    ),
    Mutant(
        "the epoch that an interrupt broke off is half noted",
        LOOP,
        "{name: values[:n_iter] for name, values in result.history.items()}",
        "result.history",
        "test_endings.py::test_an_interrupt_between_two_notes_of_an_epoch_leaves_them_agreeing",
    ),
    Mutant(
        "an interrupt ends one fit of a search and not the search",
        "_callbacks.py",
        "return context is not None or _WITHIN_A_SEARCH.get()",
        "return False",
        "test_endings.py::test_ctrl_c_ends_a_search_as_a_whole",
    ),
    Mutant(
        "patience counts from the start",
        LOOP,
        "since = self.epoch - max(result.best, self.objective.ramp)",
        "since = self.epoch",
        "test_training.py::test_patience_counts_epochs_since_the_best",
    ),
    Mutant(
        "a first epoch that diverges is kept",
        LOOP,
        "raise _diverged(settings)",
        "pass",
        "test_training.py::test_a_first_epoch_that_diverges_is_an_error",
    ),
    Mutant(
        "every player takes a step in each one's turn",
        LOOP,
        "player.step(average_weight(self.n_steps))",
        "[each.step(average_weight(self.n_steps)) for each in self.players]",
        "test_training.py::test_players_with_opposed_losses_move_only_their_own_parameters",
    ),
    Mutant(
        "the optimiser's state is lost between chunks",
        LOOP,
        "player.load_state(state)",
        "pass",
        "test_training.py::test_solver_state_carried_over_equals_an_uninterrupted_run",
    ),
    Mutant(
        "held-out rows are judged without their weights",
        "_training/held_out.py",
        "weight = None if rows.weight is None else rows.weight.cpu().double().numpy()",
        "weight = None",
        "test_training.py::test_held_out_mean_is_weighted_and_the_same_at_every_call",
    ),
    Mutant(
        "the step gives a held-out row the values of others",
        "_training/engine.py",
        ".reshape(-1, n_rows).mean(dim=0)",
        ".reshape(n_rows, -1).mean(dim=1)",
        "test_dense.py::test_held_out_rows_are_judged_as_the_objective_would",
    ),
    Mutant(
        "torch's global generator is seeded",
        "_torch.py",
        "return torch.Generator(device=device).manual_seed(int(seed))",
        "return torch.manual_seed(int(seed))",
        "test_base.py::test_one_seed_gives_the_same_bits",
    ),
    Mutant(
        "numpy's global generator is seeded",
        "_torch.py",
        "return int(check_random_state(random_state)",
        "np.random.seed(0)\n    return int(check_random_state(random_state)",
        "test_base.py::test_one_seed_gives_the_same_bits",
    ),
    Mutant(
        "a rank's rows count as much as all others together",
        "_training/steps.py",
        "grad.mul_(len(batch) / batch.n_whole)",
        "grad.mul_(0.5)",
        "test_distributed.py::test_one_batch_of_all_rows_gives_the_fit_of_one_process",
    ),
    Mutant(
        "all ranks draw the same noise",
        "_ranks.py",
        "make_generator(seed_from(rng) + own_rank(), rng.device)",
        "make_generator(seed_from(rng), rng.device)",
        "test_distributed.py::test_the_same_batches_give_the_fit_of_one_process",
    ),
    Mutant(
        "a rank that fails leaves the others waiting",
        "_ranks.py",
        "            _turn(_Fault.of(error))\n",
        "            pass\n",
        "test_distributed.py::test_an_error_of_one_rank_is_one_of_all",
    ),
]
