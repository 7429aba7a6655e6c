"""Train a classifier, or only its last layer (paper, A.2). The data set is in memory and is augmented batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.datasets.rows import to_float
from fmtool.errors import DivergedError, ModelError
from fmtool.models import compiling, heads
from fmtool.models.classifier import Classifier, lay_out
from fmtool.models.copies import buffers_of, copied, restore_
from fmtool.models.foreign_code import generator_states, generators_kept, restore_generators, seed_generators
from fmtool.models.networks import last_layer
from fmtool.runtime import threads
from fmtool.runtime.failures import out_of_memory
from fmtool.runtime.journal import NO_JOURNAL, Journal, Tensors, as_tensor, from_tensor

MOMENTUM = 0.9  # A.2
CROP_PADDING = 4  # pixels around an image before a random crop; He et al. (2016), section 4.2
AHEAD = 256  # images augmented at a time: fewer mean more calls, more exceed the processor's nearest caches
SCHEDULE = ("last_epoch", "_step_count", "_last_lr")  # the parts of a schedule's state that change
# Share of the norm by which rectifiers that switch through rounding may move the gradient of a weight
SWITCHED = 0.05
AUGMENTATIONS = ("none", "crop", "flip-crop")


@dataclass(frozen=True)
class Recipe:
    """How to train. optimizer: "sgd" or "adam"; schedule: "steps" (a tenth after 1/2 and 3/4 of the epochs) or "one-cycle"
    (rises over `rise` of all steps to `learning_rate`, then falls to nothing), stepped per batch.
    """

    optimizer: str
    schedule: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch: int = 64
    rise: float = 0.3


RECIPES: dict[str, Recipe] = {
    # A.2 for ResNet-20 on CIFAR-10
    "paper": Recipe("sgd", "steps", learning_rate=0.1, weight_decay=1e-4, epochs=200),
    # a short run of the same network
    "one-cycle": Recipe("sgd", "one-cycle", learning_rate=0.2, weight_decay=5e-4, epochs=15),
    # A.2 for new last layers; the authors step this schedule per epoch, so that it never leaves its rise
    "head": Recipe("adam", "one-cycle", learning_rate=0.01, weight_decay=0.0, epochs=20, rise=0.1),
}


@torch.enable_grad()
def train(
    classifier: Classifier,
    images: Rows,
    labels: Tensor,
    recipe: Recipe,
    *,
    augment: str = "none",
    seed: int = 0,
    compile_: bool = False,
    device: torch.device | None = None,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
) -> bool:
    """Train all weights in place. images (n, c, h, w) uint8, or float in [0, 1]; labels (n) int64. Leaves eval mode on.

    compile_: compile both passes, which rounds differently; a network that can't be compiled trains uncompiled. Returns whether
    it ran compiled. journal: where to resume from, with the same number of torch threads.
    """
    device = device or torch.device("cpu")
    threads.keep_freed_memory()
    compile_ = compiling.as_begun(compile_, journal)
    lay_out(classifier.to(device), images.shape[1:], device)
    classifier.train()
    labels = labels.to(device)
    if isinstance(images, Tensor):
        images = images.to(device)
    ahead = max(1, AHEAD // recipe.batch)
    course = _Course(classifier, len(images), recipe, ahead, seed, device, journal)
    update = _Update(classifier, compiling.trainable(classifier, device) if compile_ else classifier, journal)
    for chunk, taken in course.chunks():
        ready = augmented(images[chunk].to(device), augment, course.generator)
        batches = zip(torch.split(ready, recipe.batch), torch.split(chunk, recipe.batch), strict=True)
        for batch, rows in islice(batches, taken, None):
            try:
                update(to_float(batch), labels[rows], course, whole=len(rows) == recipe.batch)
            except ModelError as error:
                if len(rows) > 1 or len(images) == 1:
                    raise
                raise ModelError(f"{error} (the last batch holds one image: pass another --batch-size)") from error
            course.stepped()
            if progress:
                progress("training", course.step, course.steps)
    classifier.eval()
    return compiling.as_begun(False, journal) if update.first else update.compiled is not update.trained


@torch.enable_grad()
def train_head(
    classifier: Classifier,
    images: Rows,
    labels: Tensor,
    recipe: Recipe,
    *,
    batch: int,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
) -> None:
    """Train the last layer in place, linear or a convolution whose outputs are pooled, the rest frozen in eval mode.

    The body's features never change then (the authors' body moves its batch-norm statistics), so they are computed once.
    images (n, c, h, w) uint8 or float in [0, 1]; batch: images a forward pass of the body; journal: see `train`.
    """
    device = device or torch.device("cpu")
    classifier.to(device).eval()
    _, head = last_layer(classifier.network)
    features, tail = heads.features(classifier, head, images, batch, device, progress, journal)
    labels = labels.to(device)
    trained = nn.Sequential(head, tail)
    course = _Course(trained, len(images), recipe, 1, seed, device, journal)
    update = _Update(trained, trained)
    for rows, _ in course.chunks():
        update(features[rows], labels[rows], course)
        course.stepped()
        if progress:
            progress("training the last layer", course.step, course.steps)


def augmented(images: Tensor, augment: str, generator: torch.Generator) -> Tensor:
    """ "crop": each image shifted by up to 4 pixels into black; "flip-crop": also mirrored at random; "none": unchanged.

    images (n, c, h, w) of any dtype, which the result keeps.
    """
    if augment == "none":
        return images
    n, _, h, w = images.shape
    shift = torch.randint(0, 2 * CROP_PADDING + 1, (2, n), generator=generator, device=images.device)
    windows = F.pad(images, (CROP_PADDING,) * 4).unfold(2, h, 1).unfold(3, w, 1)  # (n, c, 9, 9, h, w), a view
    cropped = windows[torch.arange(n, device=images.device), :, shift[0], shift[1]]
    if augment == "crop":
        return cropped
    flip = torch.rand(n, generator=generator, device=images.device) < 0.5
    return torch.where(flip.view(n, 1, 1, 1), cropped.flip(-1), cropped)


class _Course:
    """The course of training: optimiser, schedule, and the images of each step, drawn by a generator.

    It continues where a killed one stopped. ahead: steps whose images are augmented together; a saved state holds the generator
    as it was before them, so that they can be augmented again.
    """

    def __init__(
        self, trained: nn.Module, n: int, recipe: Recipe, ahead: int, seed: int, device: torch.device, journal: Journal
    ) -> None:
        self.trained, self.n, self.batch = trained, n, recipe.batch
        self.ahead, self.device, self.journal = ahead, device, journal
        self.generator = torch.Generator(device).manual_seed(seed)
        self.of_epoch = len(range(0, n, recipe.batch))  # steps
        self.step, self.steps = 0, recipe.epochs * self.of_epoch
        self.optimizer, self.scheduler = _optimizer(trained, recipe, self.steps)
        self.order = torch.zeros(0, dtype=torch.int64, device=device)  # (n) images of this epoch
        self.drawn = self.generator.get_state()
        before = journal.load()
        if before is not None:
            self._restore(before)

    def chunks(self) -> Iterator[tuple[Tensor, int]]:
        """The images (m) of the next `ahead` steps, fewer at an epoch's end, and how many of these steps have been taken."""
        while self.step < self.steps:
            at = self.step % self.of_epoch
            if at == 0:
                self._check_finite()
                self.order = torch.randperm(self.n, generator=self.generator, device=self.device)
            self.drawn, taken = self.generator.get_state(), at % self.ahead
            start = (at - taken) * self.batch
            yield self.order[start : start + self.ahead * self.batch], taken
        self._check_finite()

    def _check_finite(self) -> None:
        """DivergedError once a weight is infinite or NaN, which it stays."""
        if not all(bool(weight.isfinite().all()) for weight in self.trained.parameters()):
            raise DivergedError(
                f"training diverged by step {self.step} of {self.steps}: expected a smaller --learning-rate, or another --recipe"
            )

    def stepped(self) -> None:
        """Record a step."""
        self.step += 1
        self.journal.save(self._tensors)

    def _tensors(self) -> Tensors:
        """Everything that the next steps depend on, except what third-party code keeps in plain attributes.

        Dropout draws from torch's own generators, third-party code from any.
        """
        moments = {
            f"moment.{number}.{name}": value
            for number, weight in enumerate(self.trained.parameters())
            for name, value in self.optimizer.state[weight].items()
            if value is not None
        }
        between = self.step % self.of_epoch % self.ahead == 0  # everything drawn has been used
        plain = {
            "step": self.step,
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "schedule": {name: self.scheduler.state_dict()[name] for name in SCHEDULE},
            "generators": generator_states(),
        }
        saved = self.trained.state_dict()
        return {
            # clones, because safetensors refuses tied weights
            **{f"weight.{name}": value.clone() for name, value in saved.items()},
            **{f"buffer.{name}": value for name, value in buffers_of(self.trained).items() if name not in saved},
            **moments,
            "order": self.order,
            "drawn": self.generator.get_state() if between else self.drawn,
            "torch": torch.get_rng_state(),
            **({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}),
            "plain": as_tensor(plain),
        }

    @torch.no_grad()
    def _restore(self, before: Tensors) -> None:
        self.trained.load_state_dict({name[7:]: value for name, value in before.items() if name.startswith("weight.")})
        restore_(self.trained, {name[7:]: value for name, value in before.items() if name.startswith("buffer.")})
        weights = list(self.trained.parameters())
        for key, value in before.items():
            if key.startswith("moment."):
                _, number, name = key.split(".")
                weight = weights[int(number)]
                # with the weights' layout, as the optimiser creates them; Adam counts its steps on the CPU
                moment = value if name == "step" else torch.empty_like(weight).copy_(value)
                self.optimizer.state[weight][name] = moment
        plain = from_tensor(before["plain"])
        self.step = plain["step"]
        for group, rate in zip(self.optimizer.param_groups, plain["rates"], strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(plain["schedule"])
        self.order = before["order"].to(self.device)
        self.generator.set_state(before["drawn"])
        restore_generators(plain["generators"])
        torch.set_rng_state(before["torch"])
        if "cuda" in before:
            torch.cuda.set_rng_state(before["cuda"], self.device)


def _optimizer(
    trained: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    weights, decay = list(trained.parameters()), recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(weights, lr=recipe.learning_rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(weights, lr=recipe.learning_rate, momentum=MOMENTUM, weight_decay=decay)
    if recipe.schedule == "one-cycle":
        total = max(steps, 4)  # torch divides by zero if the rise is one step long
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=total,
            pct_start=max(recipe.rise, 2 / total),
            cycle_momentum=False,
        )
    milestones = [max(steps // 2, 1), max(steps * 3 // 4, 1)]  # none before the first step
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)


class _Update:
    """One optimisation step of `trained`; full batches use `compiled`, which may be the same, others never do.

    first: that has still to be tried.
    """

    def __init__(self, trained: nn.Module, compiled: Callable[[Tensor], Tensor], journal: Journal = NO_JOURNAL) -> None:
        self.trained, self.journal = trained, journal
        self.compiled: Callable[[Tensor], Tensor] = compiled
        self.first = compiled is not trained

    def __call__(
        self,
        inputs: Tensor,
        labels: Tensor,
        course: _Course,
        whole: bool = True,
    ) -> None:
        loss = F.cross_entropy(self._forward(inputs, whole), labels)
        course.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        course.optimizer.step()
        course.scheduler.step()

    def _forward(self, inputs: Tensor, whole: bool) -> Tensor:
        if not whole:
            logits: Tensor = self.trained(inputs)
            return logits
        if self.first:
            self.first = False
            try:
                with compiling.quiet():
                    reason: object = "" if self._same(inputs) else "it computes something else"
            except Exception as error:
                if out_of_memory(error):
                    raise
                reason = error
            if reason:
                compiling.cannot(reason)
                self.compiled = self.trained
            compiling.record_form(not reason, True, self.journal)
        return self.compiled(inputs)

    def _same(self, inputs: Tensor) -> bool:
        """Whether the compiled network gives the uncompiled network's logits and gradients of the weights.

        Rectifiers that switch through rounding can move a weight's gradient by a percent. The compiled network's may then be at
        most twice as far as the uncompiled one's from those in float64, where none does.
        """
        actual, expected = (self._passes(self.trained, forward, inputs) for forward in (self.compiled, self.trained))
        if len(actual) != len(expected) or not all(map(partial(compiling.close, same=SWITCHED), actual, expected)):
            return False
        if all(map(compiling.close, actual, expected)):
            return True
        try:
            double = copied(self.trained).double()
            exact = self._passes(double, double, inputs.double())
        except Exception:  # it has no float64 form, or too large a one
            return False
        return all(
            compiling.close(one, best) or bool((one - best).norm() <= 2 * (other - best).norm())
            for one, other, best in zip(actual, expected, exact, strict=True)
        )

    @staticmethod
    def _passes(network: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> list[Tensor]:
        """Logits and gradients of `network`'s weights by `forward`, which is the network in some form; it keeps its buffers."""
        before = {name: values.clone() for name, values in network.state_dict().items()}
        buffers = buffers_of(network)  # also those in no state dict
        try:
            with generators_kept([inputs.device] if inputs.device.type == "cuda" else []):
                seed_generators(0)
                logits = forward(inputs)
                weights = [weight for weight in network.parameters() if weight.requires_grad]
                gradients = torch.autograd.grad(F.log_softmax(logits, 1)[:, 0].sum(), weights, allow_unused=True)
            return [logits.detach().clone(), *(values.clone() for values in gradients if values is not None)]
        finally:
            network.load_state_dict(before)  # batch norms have updated their statistics
            restore_(network, buffers)
