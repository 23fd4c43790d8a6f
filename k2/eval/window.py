"""The loss of each row of an incident's window, by the model as it was before the spike.

What enters are rows of token ids and the export of the checkpoint that was gone back to; what leaves is a loss a row. The
model before the spike is asked because only it tells odd data from ordinary: to the spiked one every row is bad. And it can
be asked beside the training that has gone on: the trainer itself is not held up by it.

Shapes: N rows, B rows of a batch, T positions, V vocabulary rows.
"""

from pathlib import Path

import numpy as np
import torch

ROWS, LOSSES = "rows.npy", "losses.json"  # in the window's folder: what is read, what is written
_TOKENS_PER_BATCH = 4096


def row_losses(export: Path, rows: Path) -> list[float]:
    """The mean cross-entropy of each row in nats, as training counts it: the first position is given, all others are predicted."""
    from transformers import LlamaForCausalLM

    rows_NT = torch.from_numpy(np.load(rows).astype(np.int64))
    model = LlamaForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    size = max(1, _TOKENS_PER_BATCH // max(1, rows_NT.shape[1]))
    losses: list[float] = []
    with torch.inference_mode():
        for batch_BT in torch.split(rows_NT, size):
            logits_BTV = model(batch_BT).logits[:, :-1].float()
            loss_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), batch_BT[:, 1:], reduction="none")
            losses += loss_BT.mean(dim=1).tolist()
    return losses
