"""Layers and readings spelt out, cell by cell and head by head: what the equations' tests compare with.

Modules give their weights only. Letters: d width, h × w cells of a map, c mask width, r RoIAlign side.
"""

import math

import torch


def linear(layer, x: torch.Tensor) -> torch.Tensor:
    return layer.weight @ x + (0 if layer.bias is None else layer.bias)


def layer_norm(norm, x: torch.Tensor) -> torch.Tensor:
    mean = x.sum() / len(x)
    return (x - mean) / ((x - mean) ** 2).mean().add(norm.eps).sqrt() * norm.weight + norm.bias


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x) / torch.exp(x).sum()


def read(cells: torch.Tensor, x: float, y: float, outside: str) -> torch.Tensor:
    """Bilinear value of (d, h, w) cells at x, y in cells, their centres at i + 0.5. `outside`: zero or edge."""
    _, h, w = cells.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    value = torch.zeros(len(cells))
    for i in (top, top + 1):
        for j in (left, left + 1):
            share = (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j))
            if outside == "edge":
                value += share * cells[:, min(max(i, 0), h - 1), min(max(j, 0), w - 1)]
            elif 0 <= i < h and 0 <= j < w:
                value += share * cells[:, i, j]
    return value


def interpolate(cells: torch.Tensor, factor: int) -> torch.Tensor:
    """(d, h, w) → (d, h · factor, w · factor)."""
    d, h, w = cells.shape
    output = torch.zeros(d, h * factor, w * factor)
    for i in range(h * factor):
        for j in range(w * factor):
            output[:, i, j] = read(cells, (j + 0.5) / factor, (i + 0.5) / factor, "edge")
    return output


def roi_align(maps: torch.Tensor, box: list[float], r: int, stride: int, samples: int = 2) -> torch.Tensor:
    """(d, h, w) and x0, y0, x1, y1 in pixels → (d, r, r): each cell the mean of samples × samples regular ones."""
    places = [(k + 0.5) / samples for k in range(samples)]
    x0, y0, x1, y1 = (side / stride for side in box)
    output = torch.zeros(len(maps), r, r)
    for i in range(r):
        for j in range(r):
            for a in places:
                for b in places:
                    x, y = x0 + (j + b) / r * (x1 - x0), y0 + (i + a) / r * (y1 - y0)
                    output[:, i, j] += read(maps, x, y, "edge") / samples**2
    return output


def products(query: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """q · Fᵀ, cell by cell: (d,), (d, h, w) → (h, w)."""
    output = torch.zeros(maps.shape[1:])
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            output[i, j] = sum(query[k] * maps[k, i, j] for k in range(len(query)))
    return output


def attention(module, query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    """Multi-head attention of one query (c,), head by head, with an nn.MultiheadAttention's weights."""
    c = len(query)
    width = c // module.num_heads
    w_q, w_k, w_v = module.in_proj_weight.split(c)
    b_q, b_k, b_v = module.in_proj_bias.split(c)
    q = w_q @ query + b_q
    heads = []
    for head in range(module.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.stack([q[part] @ (w_k @ key + b_k)[part] / math.sqrt(width) for key in keys])
        shares = softmax(scores)
        heads.append(sum(share * (w_v @ value + b_v)[part] for share, value in zip(shares, values, strict=True)))
    return linear(module.out_proj, torch.cat(heads))


def deformable_layer(layer, maps: list[torch.Tensor], position: torch.Tensor | None = None) -> list[torch.Tensor]:
    """MSDeformAttn → LayerNorm → Linear → GELU → Linear → LayerNorm on (d, h_l, w_l) maps, token by token."""
    module = layer.attention
    H, L, P = module.heads, module.levels, module.points
    d = len(maps[0])
    values = [torch.stack([linear(module.value, cell) for cell in m.flatten(1).T], 1).view(m.shape) for m in maps]
    outputs = [torch.zeros_like(m) for m in maps]
    token = 0
    for level, m in enumerate(maps):
        for i in range(m.shape[1]):
            for j in range(m.shape[2]):
                x = m[:, i, j]
                query = x if position is None else x + position[token]
                offsets = linear(module.offsets, query).view(H, L, P, 2)
                weights = linear(module.weights, query).view(H, L * P)
                heads = []
                for head in range(H):
                    part = slice(head * d // H, (head + 1) * d // H)
                    shares = softmax(weights[head]).view(L, P)
                    total = torch.zeros(d // H)
                    for k, value in enumerate(values):
                        for p in range(P):
                            at_x = (j + 0.5) / m.shape[2] * value.shape[2] + offsets[head, k, p, 0].item()
                            at_y = (i + 0.5) / m.shape[1] * value.shape[1] + offsets[head, k, p, 1].item()
                            total += shares[k, p] * read(value[part], at_x, at_y, "zero")
                    heads.append(total)
                x = layer_norm(layer.norm1, x + linear(module.output, torch.cat(heads)))
                ffn = linear(layer.ffn[2], gelu(linear(layer.ffn[0], x)))
                outputs[level][:, i, j] = layer_norm(layer.norm2, x + ffn)
                token += 1
    return outputs


def convolve(conv, maps: torch.Tensor) -> torch.Tensor:
    """3 × 3, stride 2, zeros around the map."""
    _, h, w = maps.shape
    output = torch.zeros(len(conv.weight), (h + 1) // 2, (w + 1) // 2)
    for i in range(output.shape[1]):
        for j in range(output.shape[2]):
            value = conv.bias.clone()
            for a in range(3):
                for b in range(3):
                    y, x = 2 * i + a - 1, 2 * j + b - 1
                    if 0 <= y < h and 0 <= x < w:
                        value += conv.weight[:, :, a, b] @ maps[:, y, x]
            output[:, i, j] = value
    return output
