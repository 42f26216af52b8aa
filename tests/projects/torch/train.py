import pathlib

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from network import small

torch.manual_seed(0)
digits = pd.read_parquet("data/train.parquet")
images = torch.tensor(np.stack([np.stack(one) for one in digits["image"]])).float()[:, None] / 16
labels = torch.tensor(digits["digit"].to_numpy())
network = small()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for epoch in range(25):
    for batch in torch.randperm(len(labels)).split(128):
        optimizer.zero_grad()
        loss = cross_entropy(network(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
print("loss:", float(loss))
pathlib.Path("models").mkdir()
torch.save(network.state_dict(), "models/digits.pth")
