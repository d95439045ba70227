"""Train a small network on real handwritten digits with plain numpy, measured by greenml.

The data are the 1,797 images that scikit-learn carries with it: nothing is downloaded. The network has one
hidden layer and is trained by mini-batch gradient descent. It takes about fifteen seconds, and in the end reads
more than 95 % of the test images right.

Usage: ``python examples/digits.py [--output run.json] [--epochs 600] [--region SWE] [--sku ND40rs_v2]``
"""

from __future__ import annotations

import argparse
import sys

import greenml
from greenml import reports

try:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from threadpoolctl import threadpool_limits
except ImportError as error:
    sys.exit(f'this example needs {error.name}: pip install -e ".[demo]"')

SEED = 0
SIDE = 8  # pixels
HIDDEN = 2048
BATCH = 32
LEARNING_RATE = 0.03
MOMENTUM = 0.9
NOISE = 0.1  # of the images' range


class Network:
    """Pixels to ten classes through one hidden layer of rectified linear units."""

    def __init__(self, inputs: int, hidden: int, classes: int, random: np.random.Generator) -> None:
        self.parameters = [
            random.normal(0.0, np.sqrt(2.0 / inputs), (inputs, hidden)).astype(np.float32),
            np.zeros(hidden, np.float32),
            random.normal(0.0, np.sqrt(2.0 / hidden), (hidden, classes)).astype(np.float32),
            np.zeros(classes, np.float32),
        ]
        self.velocities = [np.zeros_like(parameter) for parameter in self.parameters]

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden activations and each class's probability."""
        first, first_bias, second, second_bias = self.parameters
        hidden = np.maximum(images @ first + first_bias, 0.0)
        scores = hidden @ second + second_bias
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, raised / raised.sum(axis=1, keepdims=True)

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> float:
        """Take one step down the gradient of the cross-entropy; return the loss before it."""
        hidden, probabilities = self.forward(images)
        rows = np.arange(len(labels))
        loss = float(-np.log(probabilities[rows, labels] + 1e-9).mean())
        error = probabilities
        error[rows, labels] -= 1.0
        error /= len(labels)
        back = (error @ self.parameters[2].T) * (hidden > 0.0)
        gradients = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity[...] = MOMENTUM * velocity - learning_rate * gradient
            parameter[...] += velocity
        return loss

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of images whose likeliest class is the right one."""
        return float((self.forward(images)[1].argmax(axis=1) == labels).mean())


def varied(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shift each image by up to a pixel and add noise, so that a small data set is not learned by heart."""
    pixels = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    steps = np.arange(SIDE)
    down, right = random.integers(0, 3, (2, len(images), 1, 1))
    shifted = pixels[np.arange(len(images))[:, None, None], down + steps[:, None], right + steps]
    return shifted.reshape(images.shape) + random.normal(0.0, NOISE, images.shape).astype(np.float32)


def train(run: greenml.Run, epochs: int) -> float:
    """Train and test after each epoch; return the last test accuracy."""
    digits = load_digits()
    images = (digits.data / 16.0).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    random = np.random.default_rng(SEED)
    network = Network(images.shape[1], HIDDEN, 10, random)
    run.params(
        hidden=HIDDEN, batch_size=BATCH, learning_rate=LEARNING_RATE, momentum=MOMENTUM, epochs=epochs, seed=SEED
    )
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        rate = LEARNING_RATE * (1.0 - (epoch - 1) / epochs)  # falls to zero, so that the end is steady
        with run.phase("train"):
            order = random.permutation(len(train_images))
            losses = []
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                losses.append(network.step(varied(train_images[batch], random), train_labels[batch], rate))
        with run.phase("eval"):
            accuracy = network.accuracy(test_images, test_labels)
        run.log(epoch=epoch, train_loss=sum(losses) / len(losses), test_accuracy=accuracy)
        if epoch == 1 or epoch % 100 == 0 or epoch == epochs:
            loss = sum(losses) / len(losses)
            print(f"epoch {epoch:3d}  loss {loss:.4f}  test accuracy {accuracy:.2%}", flush=True)
    return accuracy


def main() -> None:
    """Train under ``greenml.track`` and print the model card's tables."""
    parser = argparse.ArgumentParser(description="Train on handwritten digits and measure it.")
    parser.add_argument("--output", default="run.json", help="where the record goes (run.json)")
    parser.add_argument("--epochs", type=int, default=600, help="times through the training images (600)")
    parser.add_argument("--sku", help="the cloud's machine size, for the cost: ND40rs_v2")
    parser.add_argument("--region", help="where this runs, for the carbon: westus2, SWE")
    given = parser.parse_args()
    if given.epochs < 1:
        parser.error("--epochs must be at least 1")
    tracked = {"output": given.output, "name": "digits", "sku": given.sku, "region": given.region}
    try:
        # One thread: matrices this small are slower on several cores, above all beside other work.
        with greenml.track(**tracked) as run, threadpool_limits(1):
            train(run, given.epochs)
    except greenml.SettingsError as error:
        parser.error(str(error))
    if run.record is not None:
        print(f"\n{reports.render(run.record, 'markdown')}")
        print(f"The record is {run.output}; 'greenml report {run.output}' prints all of it.")


if __name__ == "__main__":
    main()
