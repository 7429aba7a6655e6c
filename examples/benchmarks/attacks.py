"""`attack` beside Foolbox called by hand in the fastest way: frozen weights, folded batch norms, channels last.

python examples/benchmarks/attacks.py --data cifar10:test --weights resnet20.th \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import time
import warnings

import torch
from common import arguments, classifiers, pixels, ratio, rounds, show, spread
from torch import Tensor, nn

from fmtool.attacks import foolbox as attacks
from fmtool.attacks import registry
from fmtool.models.classifier import predict

BATCHES = (32, 64, 128)
EPSILON = 8 / 255


# Over 60 lines: one table, and what is timed for it.
def main() -> None:
    """Print one table."""
    given = arguments(images={"type": int, "default": 128}, attacks={"nargs": "+", "default": list(registry.ATTACKS)})
    _, run, _ = classifiers(given)
    images, labels = pixels(given, 2 * given.images)
    if given.weights:
        right = (predict(run.classifier, images, run.batch, run.device) == labels).nonzero().flatten()
        images, labels = images[right], labels[right]
    else:  # an untrained network's own guesses
        labels = predict(run.classifier, images, run.batch, run.device)
    n = min(given.images, len(images)) // max(BATCHES) * max(BATCHES)
    images, labels = images[:n], labels[:n]
    foolbox = attacks.load_foolbox()
    rows = []
    for name in given.attacks:
        known = registry.ATTACKS[name]
        epsilon = EPSILON if known.bounded else None

        def by_hand(batch: int, name: str = name, epsilon: float | None = epsilon) -> tuple[float, Tensor]:
            attack = getattr(foolbox.attacks, registry.ATTACKS[name].foolbox_class)()
            started, made = time.perf_counter(), []
            model = foolbox.PyTorchModel(run.classifier, bounds=(0, 1), device=run.device)
            for some, targets in zip(images.split(batch), labels.split(batch), strict=True):
                criterion = foolbox.criteria.Misclassification(targets.to(run.device))
                made.append(attack(model, some.to(run.device), criterion, epsilons=epsilon)[1].cpu())
            return n / (time.perf_counter() - started), torch.cat(made)

        loss = attacks.followed_loss(attacks.build(name, {})[0])
        network = None if loss is None else run.network(True, loss)

        def ours(
            network: nn.Module = run.classifier, name: str = name, epsilon: float | None = epsilon
        ) -> tuple[float, Tensor]:
            attack, _ = attacks.build(name, {})
            seeds, started = list(range(n)), time.perf_counter()
            found = attacks.run(
                network,
                images,
                labels,
                attack,
                epsilon=epsilon,
                row_seeds=seeds,
                batch=run.batch,
                device=run.device,
            )
            return n / (time.perf_counter() - started), found.adversarial

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            works = {f"by hand, batch {batch}": (lambda batch=batch: by_hand(batch)[0]) for batch in BATCHES}
            forms = {"fmtool": lambda ours=ours: ours()[0]}
            if network is not None:
                forms["compiled"] = lambda ours=ours, network=network: ours(network)[0]
            found = rounds({**works, **forms}, given.rounds)
            same = (
                "random starts" if known.bounded else ("yes" if torch.equal(by_hand(run.batch)[1], ours()[1]) else "no")
            )
        best = [max(values) for values in zip(*(found[key] for key in works), strict=True)]
        for form in forms:
            title = known.title if form == "fmtool" else f"{known.title}, --compile"
            bits = same if form == "fmtool" else "other rounding"
            rows.append([title, spread(best, ".1f"), spread(found[form], ".1f"), ratio(found[form], best), bits])
    show(
        f"Attacks: ResNet-20, {n} images right before",
        ["", "Foolbox by hand, images a second", "fmtool", "ratio", "same bits at the same batch"],
        rows,
        [
            f"Medians, lowest and highest of {given.rounds} rounds; by hand: all threads share a batch, the best of batches of "
            f"{', '.join(map(str, BATCHES))}. fmtool also predicts before and after; compiling is not timed. From one start PGD "
            "is equal too: a test."
        ],
    )


if __name__ == "__main__":
    main()
