"""The graph of a network has a node for each function that it calls, with the nodes that each one reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.curves.graph import graph_of


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU6(True)) for _ in "ab")
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        x, _ = torch.cat([x, x], dim=1).split(3, dim=1)
        return self.last(F.dropout(x.mean((2, 3)), 0.5, self.training))


def test_each_call_is_a_node_that_reads_the_nodes_before_it():
    graph = graph_of(Small(), torch.zeros(2, 3, 4, 4), {"blocks.1": "second.conv_k1"})
    inputs = {node.name: list(node.input) for node in graph.node}
    assert inputs == {
        "images": [],
        "blocks/0/0/conv2d": ["images"],
        "blocks/0/1/batch_norm": ["blocks/0/0/conv2d"],
        "blocks/0/2/hardtanh": ["blocks/0/1/batch_norm"],
        "add": ["images", "blocks/0/2/hardtanh"],
        "second.conv_k1/0/conv2d": ["add"],
        "second.conv_k1/1/batch_norm": ["second.conv_k1/0/conv2d"],
        "second.conv_k1/2/hardtanh": ["second.conv_k1/1/batch_norm"],
        "add_2": ["add", "second.conv_k1/2/hardtanh"],
        "cat": ["add_2", "add_2"],
        "split": ["cat"],
        "mean": ["split"],
        "dropout": ["mean"],
        "last/linear": ["dropout"],
    }


def test_a_node_has_the_shape_of_what_it_returns_and_the_names_of_its_parameters():
    graph = graph_of(Small(), torch.zeros(2, 3, 4, 4), {})
    nodes = {node.name: node for node in graph.node}
    (shape,) = nodes["last/linear"].attr["_output_shapes"].list.shape
    assert [dim.size for dim in shape.dim] == [2, 2]
    assert len(nodes["split"].attr["_output_shapes"].list.shape) == 2
    assert nodes["last/linear"].attr["parameters"].s == b"last.weight, last.bias"
    assert nodes["blocks/0/0/conv2d"].op == "conv2d"


def test_drawing_a_graph_changes_no_statistics_and_draws_no_random_number():
    network = Small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    graph_of(network, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), {})
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
