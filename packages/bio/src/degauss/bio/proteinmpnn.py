r"""ProteinMPNN (Dauparas et al. 2022): which amino acids suit each residue of a backbone, given some of the others.

**Graph.** Every residue looks at its 48 nearest by CA, itself among them. An edge knows how far apart the two are along
the chain (or that they are in two chains) and the distances between all pairs of N, CA, C, O and a virtual CB,

    CB = CA - 0.58273431 b x c + 0.56802827 b - 0.54067466 c,       b = CA - N,   c = C - CA,

each in 16 Gaussian bumps from 2 to 22 angstrom. So the network sees no axes: turning or moving the molecule changes
nothing.

**Encoder.** Three layers of message passing over nodes and edges, from the backbone alone.

**Decoder.** Three layers, in an order of the residues. To residue i, a neighbour j that comes *earlier* sends its
letter and what the decoder knows of it; any other neighbour, i itself included, sends what the encoder knows of it. An
order is given by *ranks*: lower is earlier, and residues of equal rank do not see each other. All residues are computed
at once.

**What is computed when.** The first linear map of a message acts on a concatenation, so it is a sum of maps of its
parts; the parts that no letter enters are made once a structure (`Context`). The last one is linear too, so it
acts on the sum over neighbours. What is left for each edge is one 128 x 128 map and two GELUs: the same function as
published, from less than a fifth of its multiplications.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, one_hot

from degauss.bio.alphabets import PROTEIN
from degauss.core.checkpoint import load_weights, read_tensors
from degauss.core.errors import InputError

LETTERS = PROTEIN.letters + PROTEIN.unknown
"""The network's alphabet: the twenty amino acids, and X."""

_HIDDEN = 128
_LAYERS = 3
_SCALE = 30.0  # messages are summed over neighbours and divided by this, however many there are
_BUMPS = 16
_REACH = 32  # offsets along the chain are told apart up to here
_EPS = 1e-6
# The pairs of atoms, from a residue to its neighbour, in the order of the published weights; A is CA and B is CB.
_PAIRS = (
    *("AA", "NN", "CC", "OO", "BB", "AN", "AC", "AO", "AB", "NC", "NO", "NB", "BC"),
    *("BO", "OC", "NA", "CA", "OA", "BA", "CN", "ON", "BN", "CB", "OB", "CO"),
)
_ATOMS = "NACOB"


class Encoding(NamedTuple):
    """What the encoder knows: ``neighbours`` ``[length, k]``, nearest first; 128 features a node and an edge."""

    neighbours: Tensor
    nodes: Tensor
    edges: Tensor


class LayerContext(NamedTuple):
    """The parts of a decoder layer's messages that are known beforehand.

    ``edges`` ``[length, k, 128]``: of the edge alone. ``unseen`` ``[length, k, 128]``: from a neighbour that does not
    come earlier. ``letters`` ``[21, 128]``: of each letter.
    """

    edges: Tensor
    unseen: Tensor
    letters: Tensor


class Context(NamedTuple):
    """All that decoding needs of a structure."""

    neighbours: Tensor
    nodes: Tensor
    layers: tuple[LayerContext, ...]


class ProteinMPNN(nn.Module):
    """The network; the names of its parameters are those of the published weights.

    ``k``: neighbours of a residue, 48 in the published models (all there are, in a smaller structure).
    """

    def __init__(self, k: int = 48) -> None:
        super().__init__()
        self.k = k
        self.features = _Features()
        self.W_e = nn.Linear(_HIDDEN, _HIDDEN)
        self.W_s = nn.Embedding(len(LETTERS), _HIDDEN)
        self.encoder_layers = nn.ModuleList(_EncoderLayer() for _ in range(_LAYERS))
        self.decoder_layers = nn.ModuleList(_Layer(sources=4) for _ in range(_LAYERS))
        self.W_out = nn.Linear(_HIDDEN, len(LETTERS))

    def encode(self, backbone: Tensor, places: Tensor, chains: Tensor) -> Encoding:
        """Run the encoder.

        ``backbone``: ``[length, 4, 3]``, N, CA, C and O in angstrom, all finite; ``places``: where each residue stands
        along its chain; ``chains``: the number of its chain, both integers ``[length]``.
        """
        if not bool(backbone.isfinite().all()):
            raise ValueError("the network takes residues with a whole backbone only: leave the others out")
        neighbours = nearest(backbone[:, 1], self.k)
        edges = self.W_e(self.features(backbone, neighbours, places, chains))
        nodes = torch.zeros_like(edges[:, 0])
        for layer in self.encoder_layers:
            nodes, edges = layer(nodes, edges, neighbours)
        return Encoding(neighbours, nodes, edges)

    def context(self, encoding: Encoding) -> Context:
        """What decoding needs, made once a structure."""
        neighbours, nodes, edges = encoding
        layers: list[LayerContext] = []
        for number in range(_LAYERS):
            _, of_edge, of_letter, of_node = self._decoder(number).parts()
            known = linear(edges, of_edge)
            unseen = known + linear(nodes, of_node)[neighbours]
            layers.append(LayerContext(known, unseen, linear(self.W_s.weight, of_letter)))
        return Context(neighbours, nodes, tuple(layers))

    def decode(self, context: Context, letters: Tensor, ranks: Tensor) -> Tensor:
        """Logits of every residue's letter given those of lower rank, ``[batch, length, 21]``.

        ``letters``: integers ``[batch, length]``, places in `LETTERS`; ``ranks``: ``[batch, length]``, lower is
        earlier. What stands in ``letters`` at the highest rank is not looked at.
        """
        return self.W_out(self.states(context, letters, ranks)[-1])

    def states(self, context: Context, letters: Tensor, ranks: Tensor) -> list[Tensor]:
        """What `decode` knows of every residue before the first layer and after each, ``[batch, length, 128]``."""
        earlier = ranks[:, context.neighbours] < ranks[:, :, None]
        states = [context.nodes.expand(len(letters), -1, -1)]
        for number in range(_LAYERS):
            sent = self.sent(context, number, letters, states[-1])[:, context.neighbours]
            states.append(self.layer(context.layers[number], number, states[-1], sent, earlier))
        return states

    def sent(self, context: Context, number: int, letters: Tensor, states: Tensor) -> Tensor:
        """What residues ``[...]`` with these letters and states send to later ones in a layer, ``[..., 128]``."""
        return context.layers[number].letters[letters] + linear(states, self._decoder(number).parts()[3])

    def layer(self, known: LayerContext, number: int, states: Tensor, sent: Tensor, earlier: Tensor) -> Tensor:
        """One layer for residues ``[..., 128]``: of ``sent`` ``[..., k, 128]`` they see where ``earlier`` ``[..., k]``.

        ``known``: the parts that belong to these residues.
        """
        return self._decoder(number).update(states, torch.where(earlier[..., None], known.edges + sent, known.unseen))

    def _decoder(self, number: int) -> _Layer:
        layer = self.decoder_layers[number]
        assert isinstance(layer, _Layer)
        return layer


def nearest(places: Tensor, k: int) -> Tensor:
    """The ``min(k, length)`` nearest points to each of ``[length, 3]``, itself first: integers ``[length, k]``."""
    apart = (places[:, None] - places).square().sum(-1)
    # Itself first also where two residues lie in one place.
    apart.fill_diagonal_(-1)
    return apart.topk(min(k, len(places)), largest=False).indices


def virtual_cb(backbone: Tensor) -> Tensor:
    """Where an ideal CB would be, ``[length, 3]`` in angstrom, also for glycine."""
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    b, c = ca - n, c - ca
    return ca - 0.58273431 * torch.linalg.cross(b, c) + 0.56802827 * b - 0.54067466 * c


class _Features(nn.Module):
    """Edges as features of distance and of place along the chain, ``[length, k, 128]``."""

    def __init__(self) -> None:
        super().__init__()
        # The last is for pairs in two chains.
        self.embeddings = nn.ModuleDict({"linear": nn.Linear(2 * _REACH + 2, _BUMPS)})
        self.edge_embedding = nn.Linear(_BUMPS * (1 + len(_PAIRS)), _HIDDEN, bias=False)
        self.norm_edges = nn.LayerNorm(_HIDDEN)

    def forward(self, backbone: Tensor, neighbours: Tensor, places: Tensor, chains: Tensor) -> Tensor:
        offset = (places[:, None] - places[neighbours]).clamp(-_REACH, _REACH) + _REACH
        offset = torch.where(chains[:, None] == chains[neighbours], offset, 2 * _REACH + 1)
        along = self.embeddings["linear"](one_hot(offset, 2 * _REACH + 2).to(backbone.dtype))
        atoms = torch.cat([backbone, virtual_cb(backbone)[:, None]], 1)
        first = atoms[:, [_ATOMS.index(pair[0]) for pair in _PAIRS]]
        second = atoms[:, [_ATOMS.index(pair[1]) for pair in _PAIRS]]
        distance = torch.sqrt((first[:, None] - second[neighbours]).square().sum(-1) + _EPS)
        return self.norm_edges(self.edge_embedding(torch.cat([along, bumps(distance).flatten(-2)], -1)))


def bumps(distance: Tensor) -> Tensor:
    """Distances in angstrom ``[...]`` as 16 Gaussian bumps from 2 to 22 angstrom, ``[..., 16]``."""
    centres = torch.linspace(2, 22, _BUMPS, dtype=distance.dtype, device=distance.device)
    return torch.exp(-(((distance[..., None] - centres) * (_BUMPS / 20)) ** 2))


class _Dense(nn.Module):
    """The transition of a node by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.W_in = nn.Linear(_HIDDEN, 4 * _HIDDEN)
        self.W_out = nn.Linear(4 * _HIDDEN, _HIDDEN)

    def forward(self, nodes: Tensor) -> Tensor:
        return self.W_out(gelu(self.W_in(nodes)))


class _Layer(nn.Module):
    """The update of nodes from messages, all of a decoder layer; ``sources``: how many parts a message is made of."""

    def __init__(self, sources: int) -> None:
        super().__init__()
        self.W1 = nn.Linear(sources * _HIDDEN, _HIDDEN)
        self.W2 = nn.Linear(_HIDDEN, _HIDDEN)
        self.W3 = nn.Linear(_HIDDEN, _HIDDEN)
        self.norm1 = nn.LayerNorm(_HIDDEN)
        self.norm2 = nn.LayerNorm(_HIDDEN)
        self.dense = _Dense()

    def parts(self) -> tuple[Tensor, ...]:
        """The first map of a message by what it acts on: the node itself, the edge, ..., the neighbour."""
        return self.W1.weight.split(_HIDDEN, 1)

    def update(self, nodes: Tensor, incoming: Tensor) -> Tensor:
        """``nodes`` ``[..., 128]``; ``incoming`` ``[..., k, 128]``: the first map of all but the node itself."""
        own = linear(nodes, self.parts()[0], self.W1.bias)
        hidden = gelu(self.W2(gelu(incoming + own[..., None, :])))
        message = linear(hidden.sum(-2), self.W3.weight, hidden.shape[-2] * self.W3.bias) / _SCALE
        nodes = self.norm1(nodes + message)
        return self.norm2(nodes + self.dense(nodes))


class _EncoderLayer(_Layer):
    """Nodes from edges and neighbours, then edges from both their ends."""

    def __init__(self) -> None:
        super().__init__(3)
        self.W11 = nn.Linear(3 * _HIDDEN, _HIDDEN)
        self.W12 = nn.Linear(_HIDDEN, _HIDDEN)
        self.W13 = nn.Linear(_HIDDEN, _HIDDEN)
        self.norm3 = nn.LayerNorm(_HIDDEN)

    def forward(self, nodes: Tensor, edges: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        _, of_edge, of_node = self.parts()
        nodes = self.update(nodes, linear(edges, of_edge) + linear(nodes, of_node)[neighbours])
        ends = torch.cat([nodes[:, None].expand_as(edges), edges, nodes[neighbours]], -1)
        return nodes, self.norm3(edges + self.W13(gelu(self.W12(gelu(self.W11(ends))))))


def load_proteinmpnn(path: str | os.PathLike[str]) -> ProteinMPNN:
    """Read published weights that were saved as safetensors, under the names of the released state dict.

    Raises `InputError` if there is no such file, if it is no safetensors file, if it holds another network,
    or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: is no safetensors file; {HOW_TO_GET}")
    weights = read_tensors(path)
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    network = ProteinMPNN(int(about.get("num_edges", "48")))
    load_weights(network, weights, path)
    for tensor, value in weights.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"{path} is damaged: numbers in {tensor!r} are not finite.")
    return network.requires_grad_(False).eval()


HOW_TO_GET = (
    "the released weights (v_48_020.pt, in the ProteinMPNN repository and in the package 'proteinmpnn') are pickles, "
    "which can run any code and are not read here: where you trust them, open the file with torch.load, and write "
    "its 'model_state_dict' with safetensors.torch.save_file."
)
"""How to come by weights that can be read, as the end of a sentence."""
