"""Fit frequency masks: one engine for one mask an image and for one mask a class (paper, sections 3.1, 4.7, 4.8 and A.3).

The authors fit one full-spectrum mask at a time with autograd. Here a batch of images advances together on half the spectrum,
each with an Adam state of its own, and the gradient with respect to a mask is written out: for x_F = F^-1(M * F x) on h x w
pixels, dL/dM = Re(F(dL/dx_F) * conj(F x)) / (h w), entry by entry what the full spectrum's loop computes.

A finished image leaves its slot to the next one, and the batch is padded, never shrunk: where the classifier's gradient for an
image hangs on that image alone (ResNet-20 on a CPU does), a mask is bitwise the same in any slot, beside any mates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.errors import MaskError
from fmtool.spectrum import column_counts, filter_images, half_width, symmetrise_

LEARNING_RATE = 0.01  # A.3
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults
WINDOW = 20  # losses whose mean the stopping test compares with the last one
MIN_STEPS, MAX_STEPS = 500, 5000  # A.3 names the first; both in the authors' code
TOLERANCE = 1e-5  # of the stopping test, one mask an image; authors' code
CLASS_TOLERANCE = 1e-3  # one mask a class; authors' code
GPU_CHECK_EVERY = 16  # steps between looks at which slots have finished: a look makes the host wait for the GPU
LAMBDA_TIMES_ENTRIES = 1536  # lambda 0.5 at 3x32x32, 0.01 at 3x224x224 in the paper
LARGEST_LAMBDA = 0.5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FitOptions:
    """lambda_: weight of the l1 penalty, summed over the full spectrum. Stop at step e when e > min_steps and the loss is
    within `tolerance` of the mean of the last 20, or when e > max_steps. batch: slots that advance together.
    """

    lambda_: float
    batch: int
    min_steps: int = MIN_STEPS
    max_steps: int = MAX_STEPS
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class FittedMasks:
    """masks (n, c, h, w // 2 + 1) in [0, 1]; steps (n) int64; loss (n) of the last step; converged (n) bool: the stopping test
    was met; preserved (n) bool: the last forward pass, before the last update, gave the target (the authors' rule);
    preserved_stored (n) bool: one more pass with the mask as it is returned gives it. All on the CPU.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor
    preserved: Tensor
    preserved_stored: Tensor


def default_lambda(shape: Sequence[int]) -> float:
    """min(0.5, 1536 / (c h w)), which is the paper's 0.5 for CIFAR-10 and its 0.01 for Imagenette."""
    return min(LARGEST_LAMBDA, LAMBDA_TIMES_ENTRIES / (shape[0] * shape[1] * shape[2]))


def fit_masks(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor,
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> FittedMasks:
    """One mask an image. images (n, c, h, w) float32 or float64 in [0, 1]; targets (n) int64, the class to keep.

    The classifier is frozen, in eval mode and on `device`. MaskError when there is no image.
    """
    n = len(images)
    if n == 0:
        raise MaskError("no image is left to fit a mask to")
    device = device or torch.device("cpu")
    slots = _Slots(images.shape[1:], images.dtype, options, device)
    found = _empty_result(images, options)
    waiting = iter(range(n))
    finished = 0
    check_every = 1 if device.type == "cpu" else GPU_CHECK_EVERY
    while finished < n:
        for slot in slots.free():
            row = next(waiting, None)
            if row is None:
                break
            slots.start(slot, row, images[row], targets[row])
        for _ in range(check_every):
            slots.step(classifier)
        for slot in slots.finished():
            slots.store(slot, found)
            finished += 1
        if progress:
            progress("fitting masks", finished, n)
    _check_stored(classifier, images, targets, found, options.batch, device)
    return found


class _Slots:
    """The batch: what each slot's image, mask, Adam state and stopping test hold. Slots without an image compute idly."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, options: FitOptions, device: torch.device) -> None:
        c, h, w = shape
        b, f = options.batch, half_width(w)
        self.options, self.size = options, (h, w)
        self.adam = _Adam((b, c, h, f), dtype, device)
        self.spectra = torch.zeros(b, c, h, f, dtype=dtype.to_complex(), device=device)
        self.targets = torch.zeros(b, dtype=torch.int64, device=device)
        self.row = [-1] * b  # which image a slot works on; -1: none
        self.active = torch.zeros(b, dtype=torch.bool, device=device)
        self.converged = torch.zeros(b, dtype=torch.bool, device=device)
        self.preserved = torch.zeros(b, dtype=torch.bool, device=device)
        self.losses = torch.full((b, WINDOW), torch.nan, dtype=torch.float64, device=device)

    def free(self) -> list[int]:
        return [slot for slot, row in enumerate(self.row) if row < 0]

    def finished(self) -> list[int]:
        return [slot for slot, active in enumerate(self.active.tolist()) if not active and self.row[slot] >= 0]

    def start(self, slot: int, row: int, image: Tensor, target: Tensor) -> None:
        self.row[slot] = row
        self.spectra[slot] = torch.fft.rfft2(
            image.to(self.spectra.device)
        )  # alone, so that no mate can change its rounding
        self.targets[slot] = target
        self.losses[slot] = torch.nan
        self.active[slot] = True
        self.adam.reset(slot)

    def step(self, classifier: nn.Module) -> None:
        """One Adam step of every active slot; finished ones keep mask, step count and the verdict of their last step."""
        filtered = torch.fft.irfft2(self.adam.masks * self.spectra, s=self.size)
        losses, logits, gradient = _input_gradient(classifier, filtered, self.targets)
        losses = losses.double() + self.options.lambda_ * _entries(self.adam.masks, self.size[1]).double()
        kept = logits.argmax(1) == self.targets
        self.preserved = torch.where(self.active, kept, self.preserved)
        slope = _mask_gradient(gradient, self.spectra)
        slope += self.options.lambda_ * self.adam.masks.sign()
        self.adam.step(symmetrise_(slope, self.size[1]), self.active)
        # the newest loss last: after a roll of the window, or left as it was in a slot that has finished
        rolled = torch.cat([self.losses[:, 1:], losses[:, None]], dim=1)
        self.losses = torch.where(self.active[:, None], rolled, self.losses)
        self.converged = torch.where(self.active, _settled(self.losses, self.options, self.adam.steps), self.converged)
        self.active = self.active & ~self.converged & (self.adam.steps <= self.options.max_steps)

    def store(self, slot: int, found: FittedMasks) -> None:
        row = self.row[slot]
        found.masks[row] = self.adam.masks[slot].cpu()
        found.steps[row] = self.adam.steps[slot].cpu()
        found.loss[row] = self.losses[slot, -1].cpu()
        found.converged[row] = self.converged[slot].cpu()
        found.preserved[row] = self.preserved[slot].cpu()
        self.row[slot] = -1


class _Adam:
    """Adam over a batch of masks, each with its own step count, clamped to [0, 1] after every step."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.masks = torch.ones(shape, dtype=dtype, device=device)
        self.mean = torch.zeros_like(self.masks)
        self.square = torch.zeros_like(self.masks)
        self.steps = torch.zeros(shape[0], dtype=torch.int64, device=device)

    def reset(self, slot: int) -> None:
        self.masks[slot] = 1
        self.mean[slot] = 0
        self.square[slot] = 0
        self.steps[slot] = 0

    def step(self, slope: Tensor, active: Tensor) -> None:
        """slope (b, c, h, f): the full spectrum's gradient, symmetric. Masks that are not `active` (b) stay as they are."""
        self.steps += active
        steps = self.steps.clamp_min(1).double()
        rate = LEARNING_RATE / (1 - BETA1**steps) * active
        correction = (1 - BETA2**steps).sqrt()
        self.mean.lerp_(slope, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
        divisor = self.square.sqrt().div_(_per_mask(correction, slope)).add_(EPSILON)
        self.masks.sub_(_per_mask(rate, slope) * self.mean / divisor).clamp_(0, 1)

    def step_some(self, slope: Tensor, active: Tensor) -> None:
        """The same for masks that go on later: the moments of those that are not `active` stay as they are too."""
        mean, square, keeps = self.mean.clone(), self.square.clone(), ~active.view(-1, 1, 1, 1)
        self.step(slope, active)
        self.mean = torch.where(keeps, mean, self.mean)
        self.square = torch.where(keeps, square, self.square)


@dataclass(frozen=True)
class ClassMasks:
    """masks (k, c, h, w // 2 + 1) in [0, 1]; steps (k) int64; loss (k) of the last step, averaged over the parts that hold
    images of the class; converged (k) bool: the stopping test was met. On the CPU. A class without images has 0 steps.
    """

    masks: Tensor
    steps: Tensor
    loss: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Part:
    """Images whose class masks advance together: images (n, c, h, w), targets (n), and owners (n): whose mask filters each."""

    images: Tensor
    targets: Tensor
    owners: Tensor


def fit_class_masks(
    classifier: nn.Module,
    parts: Sequence[Part],
    classes: int,
    options: FitOptions,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> ClassMasks:
    """One mask for all images of a class, section 4.7; with two parts section 4.8. All classes advance together.

    Each step takes one optimiser step a part, in order, on the class's mean cross-entropy in it plus the penalty, gradients
    accumulated over micro-batches of `options.batch`. The stopping test looks at the average of a class's losses over the
    parts; a class that has finished takes its images with it. MaskError when there is no image at all.
    """
    device = device or torch.device("cpu")
    if not sum(len(part.images) for part in parts):
        raise MaskError("no image is left to fit a class mask to")
    first = parts[0].images
    c, h, w = first.shape[1:]
    adam = _Adam((classes, c, h, half_width(w)), first.dtype, device)
    works = [_ClassWork(classifier, part, classes, options, device) for part in parts]
    held = torch.stack([work.counts > 0 for work in works])  # (parts, k)
    active = held.any(dim=0)
    converged = torch.zeros_like(active)
    steps = torch.zeros_like(adam.steps)
    losses = torch.full((classes, WINDOW), torch.nan, dtype=torch.float64, device=device)
    while bool(active.any()):
        summed = torch.zeros(classes, dtype=torch.float64, device=device)
        for work in works:
            loss, slope = work.gradient(adam.masks, active)
            slope += options.lambda_ * adam.masks.sign()
            penalised = loss + options.lambda_ * _entries(adam.masks, w).double()
            summed += torch.where(work.counts > 0, penalised, 0)
            adam.step_some(symmetrise_(slope, w), active & (work.counts > 0))
        steps += active
        rolled = torch.cat([losses[:, 1:], (summed / held.sum(dim=0))[:, None]], dim=1)
        losses = torch.where(active[:, None], rolled, losses)
        converged = torch.where(active, _settled(losses, options, steps), converged)
        active = active & ~converged & (steps <= options.max_steps)
        if progress:
            progress("fitting class masks, steps", int(steps.max()), options.max_steps)
    loss = losses[:, -1].to(first.dtype)
    return ClassMasks(adam.masks.cpu(), steps.cpu(), loss.cpu(), converged.cpu())


class _ClassWork:
    """One part's spectra on the device, and the classes' gradients over them."""

    def __init__(
        self, classifier: nn.Module, part: Part, classes: int, options: FitOptions, device: torch.device
    ) -> None:
        self.classifier, self.options, self.size = classifier, options, part.images.shape[-2:]
        self.spectra = torch.fft.rfft2(part.images.to(device))
        self.targets, self.owners = part.targets.to(device), part.owners.to(device)
        self.counts = torch.bincount(self.owners, minlength=classes)  # (k) images each class has in this part

    def gradient(self, masks: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (k) of each active class over its images, and its gradient (k, c, h, f) for the class's mask."""
        rows = active[self.owners].nonzero().flatten()
        slope, loss = torch.zeros_like(masks), torch.zeros(len(masks), dtype=torch.float64, device=masks.device)
        for start in range(0, len(rows), self.options.batch):
            some = rows[start : start + self.options.batch]
            owners, spectra = self.owners[some], self.spectra[some]
            filtered = torch.fft.irfft2(masks[owners] * spectra, s=self.size)
            losses, _, gradient = _input_gradient(self.classifier, filtered, self.targets[some])
            belongs = F.one_hot(owners, len(masks)).to(masks.dtype)  # a product adds up in a fixed order on any device
            slope += (belongs.T @ _mask_gradient(gradient, spectra).flatten(1)).view_as(slope)
            loss += belongs.T.double() @ losses.double()
        counts = self.counts.clamp_min(1)
        return loss / counts, slope / _per_mask(counts, slope)


def _input_gradient(classifier: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy (b), logits (b, k) and the gradient (b, c, h, w) of each image's loss with respect to that image."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(images)
        losses = F.cross_entropy(logits, targets, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), logits.detach(), gradient


def _mask_gradient(gradient: Tensor, spectra: Tensor) -> Tensor:
    """Gradient with respect to the full spectrum's mask entries (b, c, h, f), from that with respect to filtered images."""
    h, w = gradient.shape[-2:]
    turned = torch.fft.rfft2(gradient)
    slope: Tensor = (turned.real * spectra.real).addcmul_(turned.imag, spectra.imag).div_(h * w)
    return slope


def _entries(masks: Tensor, w: int) -> Tensor:
    """(b) sum of each mask's entries over the full spectrum; they are never negative, so this is the l1 norm."""
    return (masks.sum(dim=(1, 2)) * column_counts(w, masks)).sum(dim=1)


def _settled(losses: Tensor, options: FitOptions, steps: Tensor) -> Tensor:
    """(b) bool: past min_steps, and the last loss within `tolerance` of the mean of the window (NaN until that is full)."""
    return (steps > options.min_steps) & ((losses[:, -1] - losses.mean(dim=1)).abs() < options.tolerance)


def _per_mask(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, 1, 1, 1)


def _empty_result(images: Tensor, options: FitOptions) -> FittedMasks:
    n, c, h, w = images.shape
    flags = [torch.zeros(n, dtype=torch.bool) for _ in range(3)]
    return FittedMasks(
        torch.zeros(n, c, h, half_width(w), dtype=images.dtype),
        torch.zeros(n, dtype=torch.int64),
        torch.zeros(n, dtype=images.dtype),
        *flags,
    )


@torch.no_grad()
def _check_stored(
    classifier: nn.Module, images: Tensor, targets: Tensor, found: FittedMasks, batch: int, device: torch.device
) -> None:
    """Fill `preserved_stored`, at the shape of batch that fitted the masks."""
    from fmtool.models.classifier import predict

    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        filtered = filter_images(images[rows], found.masks[rows])
        found.preserved_stored[rows] = predict(classifier, filtered, batch, device) == targets[rows]
