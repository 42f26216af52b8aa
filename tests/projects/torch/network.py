from torch import nn


def small():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 16, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )
