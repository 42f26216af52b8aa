import pathlib

import numpy as np
import torch

from network import small


def load(folder):
    network = small()
    network.load_state_dict(torch.load(pathlib.Path(folder) / "digits.pth", weights_only=True))
    return network.eval()


def predict(network, frame):
    images = torch.tensor(np.stack([np.stack(one) for one in frame["image"]])).float()[:, None]
    with torch.no_grad():
        return network(images / 16).softmax(1).double().numpy()
