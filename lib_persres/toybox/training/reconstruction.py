"""How true an autoencoder is to pictures: PSNR, colours of even areas, corners."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

EVEN = 16  # pixels: the side of an even area
EVEN_DEVIATION = 4.0  # grey levels: an area is even whose pixels deviate less in each channel


@torch.no_grad()
def reconstruction_errors(vae, pictures: np.ndarray, batch: int = 8) -> dict[str, float]:
    """Errors on pictures, uint8 (n,128,128,3), in grey levels of 255 but for `psnr` (dB, mean over pictures).

    colour: |mean of decoded - mean of true|, on areas of 16×16 pixels that are even in the true picture, mean over the
    areas and channels. corner: the largest |mean over pictures of decoded - true| of a pixel in any 16×16 corner.
    """
    psnr, colour, device = [], [], next(vae.parameters()).device
    total = torch.zeros((), device=device)
    for start in range(0, len(pictures), batch):
        true = torch.from_numpy(np.array(pictures[start : start + batch])).to(device)
        true = true.permute(0, 3, 1, 2).contiguous().float()
        decoded = (vae.decode(vae.moments(true / 127.5 - 1)[0]).clamp(-1, 1) + 1) * 127.5
        error = decoded - true
        psnr.append(20 * np.log10(255) - 10 * error.square().mean((1, 2, 3)).log10())
        mean = F.avg_pool2d(true, EVEN, EVEN // 2)
        deviation = (F.avg_pool2d(true.square(), EVEN, EVEN // 2) - mean.square()).clamp_min(0).sqrt()
        even = deviation.amax(1) < EVEN_DEVIATION
        colour.append(F.avg_pool2d(error, EVEN, EVEN // 2).abs().mean(1)[even])
        total = total + error.sum(0)
    bias = (total / len(pictures)).mean(0).abs()
    corners = [bias[rows, columns] for rows in _ENDS for columns in _ENDS]
    values = {"psnr": torch.cat(psnr).mean(), "colour": torch.cat(colour).mean(), "corner": torch.stack(corners).max()}
    return {name: round(value.item(), 3) for name, value in values.items()}


_ENDS = (slice(None, 16), slice(-16, None))
