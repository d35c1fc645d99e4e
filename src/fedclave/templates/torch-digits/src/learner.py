# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network for 8x8 pictures of digits, in PyTorch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedclave.learners.torch import TorchLearner

from .data import load


def network(channels):
    """Two convolutions with batch normalisation, then a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * 16, 10),
    )


def build(site, channels: int = 8):
    """The learner of one party."""
    torch.manual_seed(site.seed)  # every party begins with the same weights

    def dataset(part):
        features, labels = load(site.data)[part]
        return TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))

    return TorchLearner(
        network(channels),
        site=site,
        optimizer=lambda params, lr=0.1: torch.optim.SGD(params, lr=lr, momentum=0.9),
        loss=nn.functional.cross_entropy,
        train=lambda batch_size=32: DataLoader(dataset(0), batch_size, shuffle=True),
        validate=lambda: DataLoader(dataset(1), 256),
        metrics={"accuracy": lambda output, y: (output.argmax(1) == y).float().mean()},
    )
