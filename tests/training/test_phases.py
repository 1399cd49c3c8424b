"""Phases in the loop: what moves, at which rate, and that an interrupted training goes on to the same bits."""

import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from detpretrain import seeds
from detpretrain.errors import InputError
from detpretrain.training import checkpoints
from detpretrain.training.loop import Stopped, fit
from detpretrain.training.phases import build_phases, phase_at
from detpretrain.training.schedules import WarmupPoly

POLY = {"class": "detpretrain.training.schedules.WarmupPoly", "lr": 0.05}
WARM = {**POLY, "warmup_steps": 4}
FROZEN_FIRST = [{"epochs": 1, "freeze": ["encoder"], "schedule": WARM}, {"epochs": 2}]
FROZEN_LATER = [{"epochs": 2}, {"epochs": 1, "freeze": ["encoder"]}]
ADAMW = {"class": "torch.optim.AdamW", "weight_decay": 0.1, "amsgrad": True}


class Net(nn.Module):
    """An encoder with a norm that keeps running statistics and dropout, and a head; ``seen``: weights before every step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 1))
        self.seen, self.gradients = [], []

    def forward(self, x, y):
        if self.training:
            self.seen.append({name: value.clone() for name, value in self.state_dict().items()})
        return {"square": ((self.head(self.encoder(x))[:, 0] - y) ** 2).mean()}


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def of_encoder(state):
    return {name: value for name, value in state.items() if name.startswith("encoder.")}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("optimizer", [None, ADAMW], ids=["momentum", "adamw"])
def test_frozen_parts_do_not_move_and_move_again_later(toy_run, optimizer):
    changes = {"optimizer": optimizer} if optimizer else {}
    model = net()
    run = toy_run(model=model, phases=FROZEN_FIRST, **changes)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fit(run)
    for step in range(5):  # step 4 is the first of the second phase: its gradient comes after it was seen
        assert same(of_encoder(start), of_encoder(model.seen[step])), step
    assert not torch.equal(model.seen[1]["head.0.weight"], model.seen[0]["head.0.weight"])
    for name in ("encoder.0.weight", "encoder.1.weight", "encoder.1.running_mean"):
        assert not torch.equal(model.seen[5][name], start[name]), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parts_that_are_frozen_later_stop_without_decay_or_momentum(toy_run):
    model = net()
    fit(toy_run(model=model, phases=FROZEN_LATER, optimizer=ADAMW))
    assert not same(of_encoder(model.seen[7]), of_encoder(model.seen[8]))
    for step in range(9, 12):
        assert same(of_encoder(model.seen[8]), of_encoder(model.seen[step])), step
    assert same(of_encoder(model.seen[8]), of_encoder(model.state_dict()))
    assert all(parameter.requires_grad for parameter in model.parameters())  # the loop leaves the model as it came


def test_nothing_is_computed_backwards_through_a_frozen_part(toy_run):
    model, grad_mode = net(), []
    model.encoder[0].register_forward_hook(lambda module, inputs, output: grad_mode.append(output.requires_grad))
    fit(toy_run(model=model, phases=FROZEN_FIRST, validate=lambda model: {}))
    assert grad_mode == [False] * 4 + [True] * 8


def test_gradients_of_before_do_not_count_for_clipping(toy_run, monkeypatch):
    norms = []
    original = nn.utils.clip_grad_norm_

    def recorded(parameters, limit):
        parameters = list(parameters)
        norms.append([parameter.grad is not None for parameter in parameters])
        return original(parameters, limit)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", recorded)
    model = net()
    fit(toy_run(model=model, phases=FROZEN_LATER, clip_norm=1.0))
    encoder = [name.startswith("encoder.") for name, _ in model.named_parameters()]
    assert norms[:8] == [[True] * len(encoder)] * 8
    assert norms[8:] == [[not inside for inside in encoder]] * 4


def test_every_phase_is_a_training_of_its_own(toy_run):
    """Two trainings by hand, the second on the first one's weights with the encoder free, batches and draws going on."""
    whole = toy_run("whole", model=net(), phases=FROZEN_FIRST, optimizer=ADAMW)
    rows = fit(whole)
    model = net()
    first = replace(
        toy_run("first", model=model, epochs=1, schedule=WARM, optimizer=ADAMW), batches=whole.batches, seed=whole.seed
    )
    model.encoder.requires_grad_(False)
    model.encoder.train = lambda mode=True: nn.Module.train(model.encoder, False)
    fit(first)
    del model.encoder.train
    model.encoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1, amsgrad=True)
    schedule = WarmupPoly(lr=0.05, decay_steps=8, warmup_steps=3)  # the recipe's own
    batches = whole.batches(4)
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, 4)
        model.train()
        optimizer.zero_grad()
        batch = next(batches)
        torch.manual_seed(seeds.derive(*whole.seed, "step", 4 + step, 0))
        model(*batch)["square"].backward()
        optimizer.step()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert [row["lr"] for row in rows] == [0.75 * (0.05 - 1e-6) + 1e-6, schedule(3, 4), schedule(7, 4)]


def interrupted(run, at):
    """The run, ended by its budget after step ``at`` (its state is saved)."""

    def stream(first):
        for number, batch in enumerate(run.batches(first), first):
            if number == at - 1:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.raises(Stopped):
        fit(replace(run, batches=stream))


AVERAGED = {"averaging": {"start_epoch": 2, "low": 1e-3, "high": 1e-2}}


@pytest.mark.parametrize(
    ("phases", "last_step", "changes"),
    [
        (FROZEN_FIRST, 2, {"optimizer": ADAMW}),
        (FROZEN_FIRST, 4, {"optimizer": ADAMW}),  # where the phases meet
        (FROZEN_FIRST, 6, {"optimizer": ADAMW}),
        (FROZEN_LATER, 6, AVERAGED),
        (FROZEN_LATER, 8, AVERAGED),
        (FROZEN_LATER, 10, AVERAGED | {"optimizer": ADAMW}),
    ],
)
def test_resumed_is_bit_identical_in_every_phase_and_where_they_meet(toy_run, phases, changes, last_step):
    whole = toy_run("whole", model=net(), phases=phases, **changes)
    rows = fit(whole)
    interrupted(toy_run("cut", model=net(), phases=phases, **changes), last_step)
    torch.manual_seed(99)
    resumed = toy_run("cut", model=net(seed=7), phases=phases, **changes)
    assert checkpoints.load(resumed.work / "last.pth")["step"] == last_step
    found = fit(resumed)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    for row, other in zip(rows, found, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


class Killed(BaseException):
    """Nothing of the loop handles it: what is on disk is what SIGKILL would leave."""


def killed(run, at):
    """The run, ended without a word while pass ``at`` is loaded."""

    def stream(first):
        for number, batch in enumerate(run.batches(first), first):
            if number == at:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        fit(replace(run, batches=stream))


def test_killed_trainings_go_on_to_the_same_bits(toy_run):
    """In the first phase, where the phases meet, and twice in the second one; the state is of the last epoch's end."""
    whole = toy_run("whole", model=net(), phases=FROZEN_FIRST, optimizer=ADAMW)
    fit(whole)
    for at, saved in ((3, None), (4, 4), (7, 4), (10, 8)):
        run = toy_run("killed", model=net(), phases=FROZEN_FIRST, optimizer=ADAMW)
        killed(run, at)
        state = run.work / "last.pth"
        assert (checkpoints.load(state)["step"] if state.exists() else None) == saved
    resumed = toy_run("killed", model=net(seed=7), phases=FROZEN_FIRST, optimizer=ADAMW)
    fit(resumed)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def test_what_a_model_freezes_itself_stays_frozen(toy_run):
    model = net()
    model.encoder[0].bias.requires_grad_(False)
    before = model.encoder[0].bias.clone()
    fit(toy_run(model=model, phases=FROZEN_FIRST))
    assert torch.equal(model.encoder[0].bias, before)
    assert not model.encoder[0].bias.requires_grad


def test_parts_may_lie_deeper_and_of_an_encoder_what_starts_fresh_trains(toy_run):
    class Encoder(nn.Sequential):
        pretrained = property(lambda self: self[0])

    model = net()
    model.encoder = Encoder(*model.encoder)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fit(toy_run(model=model, phases=[{"epochs": 3, "freeze": ["encoder", "head.0"]}]))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name for name in start if name not in moved} == {
        *("encoder.0.weight", "encoder.0.bias"),
        *("head.0.weight", "head.0.bias"),
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["encodr"], "phases: freeze 'encodr': Net has no such part: known are encoder, head"),
        (["encoder", "head"], "phases: freeze encoder, head: nothing is left to train"),
    ],
)
def test_parts_that_do_not_exist_are_found_before_the_first_step(toy_run, names, message):
    model = net()
    with pytest.raises(InputError, match=message) as error:
        fit(toy_run(model=model, phases=[{"epochs": 2}, {"epochs": 1, "freeze": names}]))
    assert "\n" not in str(error.value)
    assert not model.seen


def test_averaging_in_the_last_phase_averages_what_moves_and_leaves_the_rest(toy_run):
    model = net()
    run = toy_run(model=model, phases=FROZEN_LATER, epochs=3, averaging={"start_epoch": 2, "low": 1e-3, "high": 1e-2})
    fit(run)
    assert same(of_encoder(model.seen[8]), of_encoder(model.state_dict()))
    assert torch.equal(model.head[0].weight, model.seen[8]["head.0.weight"])  # one snapshot, at the start of its epoch


def test_phases_count_their_own_steps():
    phases = build_phases(FROZEN_FIRST, POLY, epochs=3, steps_per_epoch=10)
    assert [(phase.first, phase.end, phase.freeze) for phase in phases] == [(0, 10, ("encoder",)), (10, 30, ())]
    assert [phases.index(phase_at(phases, step)) for step in (0, 9, 10, 29, 30)] == [0, 0, 1, 1, 1]
    assert phases[0].rate(2, 10) == 1e-6 + (0.05 - 1e-6) * 2 / 4
    assert phases[1].rate(10, 10) == 0.05
    assert phases[1].rate(20, 10) == pytest.approx(0.05 * 0.5**0.9)  # half of its own twenty steps
    (whole,) = build_phases((), POLY, epochs=3, steps_per_epoch=10)
    assert (whole.first, whole.end, whole.freeze, whole.schedule.decay_steps) == (0, 30, (), 30)
