"""Foolbox behind one table: untargeted attacks on images that the classifier gets right (paper, section 4.3)."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtool.artifacts.format import Rows
from fmtool.artifacts.progress import Progress
from fmtool.artifacts.schema import LARGEST_NUMBER
from fmtool.artifacts.scratch import Overlay, changeable
from fmtool.attacks import gradients
from fmtool.attacks.random_starts import seeded, starts
from fmtool.attacks.registry import ATTACKS, FAILED, NORMS, OK, WRONG_BEFORE
from fmtool.errors import AttackError, unknown, warn
from fmtool.models.classifier import NO_CLASS, filled, predict
from fmtool.models.compiled_classifier import Loss, labelled
from fmtool.runtime import threads
from fmtool.runtime.journal import NO_JOURNAL, Journal, as_tensor, from_tensor

NUMBERS = (int, float, int | None, float | None)  # annotations of an attack's options
# what Foolbox raises about options that it accepts unchecked
ERRORS = (AssertionError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError)
# what classes of Foolbox don't do, though their names and options say so
FAULTS = {
    "L1AdamBasicIterativeAttack": "Foolbox takes plain gradient steps here, and ignores the adam_ options",
    "L2AdamBasicIterativeAttack": "Foolbox takes plain gradient steps here, and ignores the adam_ options",
    "L2FMNAttack": "Foolbox doesn't project its steps here, so the perturbations are not the smallest that it finds",
}


@dataclass(frozen=True)
class Attacked:
    """adversarial (n, c, h, w) float32 in [0, 1]: as the attack returned them, or the image itself where status is 1 and
    where the classifier gives no finite logits for what it returned;
    clean_predictions, adversarial_predictions, status (n) int64; success is judged on the stored float32 image.
    """

    adversarial: Rows
    clean_predictions: Tensor
    adversarial_predictions: Tensor
    status: Tensor


def load_foolbox() -> Any:
    """Import Foolbox, which warns of a name that SciPy 2 will lack (so `pyproject.toml` stays below that)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
    return foolbox


def build(name: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A Foolbox attack by short name or class name, and all of its options in effect.

    PGD's random start is read from its attribute `starts`, see `perturb_`. AttackError for an unknown name or option.
    """
    from fmtool.attacks.variants import variant

    foolbox = load_foolbox()
    class_name = ATTACKS[name].foolbox_class if name in ATTACKS else name
    module, _, own_class = class_name.partition(":") if name in ATTACKS else (class_name, "", "")
    place = importlib.import_module(f"fmtool.attacks.{module}") if own_class else foolbox.attacks
    base = getattr(place, own_class or class_name, None)
    if not (inspect.isclass(base) and issubclass(base, foolbox.attacks.Attack)) or inspect.isabstract(base):
        classes = [
            key
            for key, value in vars(foolbox.attacks).items()
            if inspect.isclass(value) and issubclass(value, foolbox.attacks.Attack) and not inspect.isabstract(value)
        ]
        raise AttackError(unknown("attack", name, [*ATTACKS, *classes]))
    parameters = inspect.signature(base.__init__).parameters
    for option in options:
        if option not in parameters or option == "self":
            raise AttackError(unknown(f"option of attack {name}", option, [key for key in parameters if key != "self"]))
        _check_option(option, options[option], parameters[option].annotation)
    arguments = dict(options)
    if isinstance(arguments.get("distance"), str):
        if arguments["distance"] not in NORMS:
            raise AttackError(unknown("--attack-option distance", arguments["distance"], NORMS))
        arguments["distance"] = foolbox.distances.LpDistance(NORMS[arguments["distance"]])
    try:
        attack = variant(base)(**arguments)
    except ERRORS as error:
        raise AttackError(f"attack {name}: {error}") from None
    if base.__name__ in FAULTS:
        warn(f"attack {name}: {FAULTS[base.__name__]}")
    effect = {key: value.default for key, value in parameters.items() if value.default is not inspect.Parameter.empty}
    effect.update(options)
    return attack, {key: value if _is_plain(value) else f"<{value}>" for key, value in effect.items()}


def norm_of(attack: Any) -> str | None:
    """The name in `NORMS` of the distance that an attack of `build` minimises or stays within; None where it has none."""
    try:
        p = attack.distance.p
    except (AttributeError, ValueError, NotImplementedError):
        return None
    return next((name for name, value in NORMS.items() if value == p), None)


def _check_option(name: str, value: Any, annotation: Any) -> None:
    """AttackError for values that an artifact can't hold, and for text in place of True or False, which counts as True."""
    if annotation is bool and isinstance(value, str):
        raise AttackError(f"--attack-option {name}: expected True or False, got {value!r}")
    if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:  # also true of NaN
        raise AttackError(f"--attack-option {name}: expected a number of at most {LARGEST_NUMBER:g}")
    if name == "steps" and isinstance(value, int) and value < 1:
        raise AttackError(f"--attack-option steps: expected at least 1, got {value}")
    if isinstance(value, str) and not value.isprintable():
        raise AttackError(f"--attack-option {name}: expected printable text, got {value!r}")
    if isinstance(value, str | bool) and annotation in NUMBERS:
        raise AttackError(f"--attack-option {name}: expected a number, got {value!r}")


def run(
    classifier: nn.Module,
    images: Rows,
    labels: Tensor,
    attack: Any,
    *,
    epsilon: float | None,
    row_seeds: list[int],
    batch: int,
    device: torch.device,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
    others: bool = False,
) -> Attacked:
    """Attack the images that `classifier` (eval mode, frozen, on `device`) gets right, in batches padded to `batch`.

    images (n, c, h, w) float32 in [0, 1]; labels (n) int64; epsilon: the bound in the attack's norm, or None for an attack that
    minimises the perturbation without one; row_seeds: one number per image, from which its random start is drawn; journal: where
    to resume from; others: whether another process attacks other images.
    """
    clean = predict(classifier, images, batch, device, journal, "clean", progress)
    status = torch.where(clean == labels, OK, WRONG_BEFORE)
    adversarial = changeable(images)
    unsure = perturb_(
        classifier,
        adversarial,
        labels,
        (status == OK).nonzero().flatten(),
        attack,
        epsilon=epsilon,
        row_seeds=row_seeds,
        batch=batch,
        device=device,
        progress=progress,
        journal=journal,
        others=others,
    )
    predictions = predict(classifier, adversarial, batch, device, journal, "adversarial", progress, strict=False)
    take_back_(adversarial, predictions, images, clean, status)
    status[(status == OK) & (predictions == labels)] = FAILED
    failed = int((status[sorted(unsure)] == FAILED).sum())
    if failed:
        warn(f"{failed} failed attacks met gradients that are not finite: these images may only seem robust")
    return Attacked(adversarial, clean, predictions, status)


def take_back_(adversarial: Tensor | Overlay, predictions: Tensor, images: Rows, clean: Tensor, status: Tensor) -> None:
    """Put clean images, with their classes (n), in place of adversarial ones of `NO_CLASS`, which then are failed attacks."""
    before = status == WRONG_BEFORE  # these keep their class even if the network is random
    predictions[before] = clean[before]
    rows = (predictions == NO_CLASS).nonzero().flatten()
    assert not (clean == NO_CLASS).any()
    if len(rows):
        adversarial[rows], predictions[rows] = images[rows], clean[rows]
        warn(f"{len(rows)} images count as failed attacks: their adversarial images give logits that are not finite")


# Over 60 lines, a third of them signature and docstring.
def perturb_(
    classifier: nn.Module,
    images: Tensor | Overlay,
    labels: Tensor,
    rows: Tensor,
    attack: Any,
    *,
    epsilon: float | None,
    row_seeds: list[int],
    batch: int,
    device: torch.device,
    progress: Progress | None = None,
    journal: Journal = NO_JOURNAL,
    trial: int = 0,
    numbers: Sequence[int] | None = None,
    others: bool = False,
) -> set[int]:
    """Replace the images of `rows` (m) int64, which are distinct, by the attack's results, in place.

    The other arguments are those of `run`; images, labels and row_seeds are of all n images. An image is recorded under its
    number, its row unless given, with the trial's; a batch that is not whole there is attacked again, with the same mates. Images
    for which the attack finds no starting point, or no finite image, stay as they are; AttackError where that is all of them, and
    no others are attacked elsewhere.
    Returns the rows of other images for which a gradient was not finite: the sign of NaN is 0, and PGD stays where it is.
    """
    names = range(len(images)) if numbers is None else numbers
    # an attack that may draw from a global generator takes its batches one after the other
    keyed = draws_for_each_image(attack)
    failures: dict[int, AttackError] = {}  # by row
    unsure: set[int] = set()
    batches = [
        some
        for some in threads.batches(rows, batch)
        if not _restored(images, some, names, trial, journal, failures, unsure)
    ]
    done = len(rows) - sum(len(some) for some in batches)

    def one_batch(some: Tensor) -> Tensor:
        seeds = [row_seeds[row] for row in some.tolist()]
        started = copy.copy(attack)
        if hasattr(attack, "starts"):
            started.starts = filled(classifier, starts(images.shape[1:], seeds, norm_of(attack)), batch).to(device)
        inputs = (
            filled(classifier, images[some], batch).to(device),
            filled(classifier, labels[some], batch).to(device),
        )
        bad = gradients.watch(len(inputs[0]), device)
        with seeded(seeds[0], device) if not keyed else contextlib.nullcontext(), labelled(inputs[1]):
            try:
                perturbed = _attack_batch(classifier, started, *inputs, epsilon)[: len(some)].cpu()
            except _NoStartError as error:
                if len(some) == 1:
                    failures[int(some)] = error
                    return images[some]
                return torch.cat([one_batch(half) for half in some.chunk(2)])
        unsure.update(some[bad[: len(some)].cpu()].tolist())
        for slot in (~perturbed.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist():
            failures[int(some[slot])] = AttackError(
                f"attack {type(attack).__name__} returned images that are not finite"
            )
            perturbed[slot] = images[some[slot]]
        return perturbed

    def store(some: Tensor, perturbed: Tensor) -> None:
        nonlocal done
        images[some] = perturbed
        parts = [{"adversarial": image, "trial": torch.tensor(trial)} for image in perturbed]
        for part, row in zip(parts, some.tolist(), strict=True):
            if row in failures:
                part["failure"] = as_tensor(str(failures[row]))
            if row in unsure:
                part["unsure"] = torch.tensor(True)
        if not failures.keys() >= set(some.tolist()):  # else it may be the attack that can't run here at all
            journal.finish_all(dict(zip((str(names[row]) for row in some.tolist()), parts, strict=True)))
        done += len(some)
        if progress:
            progress("attacking", done, len(rows))

    with threads.pool(device, None if keyed else 1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _run_batches(pool, classifier, batches, one_batch, store)
    if failures:
        first = failures[min(failures)]
        if len(failures) == len(rows) and not others:
            raise first
        warn(f"{len(failures)} of {len(rows)} images count as failed attacks: {first}")
    return unsure - failures.keys()


def _run_batches(
    pool: Executor,
    classifier: nn.Module,
    batches: Sequence[Tensor],
    one_batch: Callable[[Tensor], Tensor],
    store: Callable[[Tensor, Tensor], None],
) -> None:
    """Call `store` with each batch and the result of `one_batch` as soon as it is ready.

    Ctrl-C or SIGTERM stops running batches at their next forward pass, the only way to stop Foolbox, and stores finished ones.
    """
    stop, jobs = threading.Event(), {}

    def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if stop.is_set():
            raise _StoppedError
        gradients.look_at(inputs[0])

    hook = classifier.register_forward_pre_hook(look)
    try:
        jobs = {pool.submit(one_batch, some): some for some in batches}
        for job in as_completed(tuple(jobs)):
            store(jobs[job], job.result())
            del jobs[job]
    except BaseException as error:
        stop.set()
        pool.shutdown(cancel_futures=True)
        # after an error another batch size may be tried, which starts anew
        for job, some in jobs.items() if not isinstance(error, Exception) else ():
            if not job.cancelled() and job.exception() is None:
                store(some, job.result())
        raise
    finally:
        hook.remove()


class _NoStartError(AttackError):
    """The attack finds no starting point for one image of a batch, or for several."""


class _StoppedError(Exception):
    """A batch was abandoned because the run is ending."""


def _restored(
    images: Tensor | Overlay,
    some: Tensor,
    names: Sequence[int],
    trial: int,
    journal: Journal,
    failures: dict[int, AttackError],
    unsure: set[int],
) -> bool:
    """Whether a whole batch was attacked before the run was interrupted; if so, restore its images and what is known of them."""
    recorded = {row: journal.part(str(names[row])) for row in some.tolist()}
    parts = {row: part for row, part in recorded.items() if part is not None and int(part["trial"]) == trial}
    if len(parts) < len(some):
        return False
    images[some] = torch.stack([part["adversarial"] for part in parts.values()])
    failures |= {row: AttackError(from_tensor(part["failure"])) for row, part in parts.items() if "failure" in part}
    unsure |= {row for row, part in parts.items() if "unsure" in part}
    return True


def draws_for_each_image(attack: Any) -> bool:
    """Whether an attack of `build` is known to draw only a start for each image, so that images can be divided.

    Foolbox's projection for SparseL1DescentAttack treats an image otherwise where a mate leaves the ball, and an attack that
    another one begins draws whatever that draws. FMN and DeepFool draw nothing; gradient attacks receive their starts.
    """
    attacks = load_foolbox().attacks
    if isinstance(attack, attacks.SparseL1DescentAttack) or getattr(attack, "init_attack", None) is not None:
        return False
    return hasattr(attack, "starts") or isinstance(attack, attacks.LInfFMNAttack | attacks.deepfool.DeepFoolAttack)


def followed_loss(attack: Any) -> Loss | None:
    """The loss whose gradient an attack of `build` takes in each step, so that one graph can compute it; None for others."""
    attacks = load_foolbox().attacks
    if isinstance(attack, attacks.gradient_descent_base.BaseGradientDescent):
        return partial(F.cross_entropy, reduction="none")
    return margin if isinstance(attack, attacks.fast_minimum_norm.FMNAttackLp) else None


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(b): by how much the largest of the other logits (b, k) exceeds the label's. FMN climbs it."""
    own = labels[:, None]
    others = logits.detach().scatter(1, own, -torch.inf).argmax(dim=1, keepdim=True)
    return (logits.gather(1, others) - logits.gather(1, own)).squeeze(1)


def _attack_batch(classifier: nn.Module, attack: Any, images: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
    """One batch through Foolbox: its clipped images, which differ from the clean ones even if the attack failed."""
    foolbox = load_foolbox()
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=images.device)
    try:
        _, clipped, _ = attack(model, images, foolbox.criteria.Misclassification(labels), epsilons=epsilon)
    except NotImplementedError:
        name = type(attack).__name__
        needs = "needs an" if epsilon is None else "takes no"
        raise AttackError(f"attack {name} {needs} --epsilon") from None
    except (*ERRORS, RuntimeError) as error:
        raise _told(error, type(attack).__name__) from error
    adversarial: Tensor = clipped.detach().clamp(0, 1)
    return adversarial


def _told(error: Exception, name: str) -> AttackError:
    """What Foolbox raises, in the user's terms. Its counts are those of a padded batch."""
    reason = str(error).splitlines()[0] if str(error) else "one of its checks failed without a message"
    started = isinstance(error, AssertionError) and not str(error)
    if started or re.search(r"failed for \d+ of \d+ inputs|not adversarial for \d+ of \d+ inputs", reason):
        reason = reason if started else "no starting point is found"
        return _NoStartError(f"attack {name} can't run on this classifier, or with such an option: {reason}")
    return AttackError(f"attack {name} can't run on this classifier, or with such an option: {reason}")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
