"""Reads and writes the networks of the class PyramidTreeNet."""

from __future__ import annotations

from typing import Any

from published.net_config.layers import made, read_linear, written_linear
from published.net_config.names import ACTIVATIONS, KINDS, ORDERS, THEIRS, TREE, TREE_BN
from published.records import Record, shown
from supernet.chain import Chain, ChainConfig
from supernet.errors import InvalidError
from supernet.space import BNConfig
from supernet.tree import BranchConfig, NodeConfig, TransitionConfig, TreeConfig, UnitConfig, split_channels


def read_tree(record: Record, size: int) -> ChainConfig:
    """Reads a PyramidTreeNet."""
    record.only("tree_node_config", {}, None, default=None)
    record.only("cell_drop_rate", 0, 0.0, default=0)
    record.word("cell_drop_scheme", ("linear", "constant"), "linear")
    values = record.take("blocks")
    if not isinstance(values, list) or not values:
        raise InvalidError("blocks", f"got {shown(values)}", "a list of one block or more")
    channels = c = _first_channels(values[0])
    start, blocks = size, []
    for i, value in enumerate(values):
        block = _tree_block(Record(value, f"blocks.{i}"), c, size)
        c, size = block.shape(c, size)
        blocks.append(block)
    if size != 1:
        found = f"the last map has {size} x {size} pixels at input size {start}"
        raise InvalidError("classifier.in_features", found, "1 x 1: nothing else can be represented")
    classifier = read_linear(Record(record.take("classifier"), "classifier"), c, None, None)
    record.end()
    return ChainConfig.model_validate(
        {
            "input_size": start, "input_channels": channels, "activation": "relu", "bn": BNConfig(**TREE_BN),
            "stem": blocks[0], "blocks": tuple(blocks[1:]), "feature_mix": None, "classifier": classifier,
        }
    )  # fmt: skip


def _first_channels(block: Any) -> int:
    """Returns the channels that the first layer of a tree network takes."""
    record = Record(block, "blocks.0")
    layers = record.take("layers", None)
    if isinstance(layers, list) and layers:
        return Record(layers[0], "blocks.0.layers.0").number("in_channels", 1)
    return Record(record.take("shortcut"), "blocks.0.shortcut").number("in_channels", 1)


def _tree_block(record: Record, c_in: int, size: int) -> TransitionConfig | TreeConfig:
    if record.word("name", ("TransitionBlock", "ResidualTreeBlock")) == "TransitionBlock":
        layers, units = record.take("layers"), []
        if not isinstance(layers, list) or not layers:
            raise InvalidError(record.at("layers"), f"got {shown(layers)}", "a list of one layer or more")
        for i, value in enumerate(layers):
            unit, c_in, size = _unit(value, f"{record.at('layers')}.{i}", c_in, size)
            units.append(unit)
        record.end()
        return TransitionConfig(op="transition", units=tuple(units))
    record.only("cell_drop_rate", 0, 0.0, default=0)
    shortcut, *_ = _unit(record.take("shortcut"), record.at("shortcut"), c_in, size)
    into, c, now = _unit_or_none(record.take("in_bottle"), record.at("in_bottle"), c_in, size)
    cell, c, now = _node(Record(record.take("cell"), record.at("cell")), c, now)
    out, *_ = _unit_or_none(record.take("out_bottle"), record.at("out_bottle"), c, now)
    block = TreeConfig(
        op="tree", cell=cell, into=into, out=out, shortcut=shortcut, final_bn=record.flag("final_bn", True)
    )
    place = record.at("shortcut")
    record.end()
    try:
        block.shape(c_in, size)
    except InvalidError as error:
        raise InvalidError(place, error.found, error.expected) from None
    return block


def _node(record: Record, c_in: int, size: int) -> tuple[NodeConfig, int, int]:
    """Reads a TreeNode. Returns it with its output's channels and size."""
    record.word("name", ("TreeNode",), "TreeNode")
    record.equal("in_channels", c_in)
    split, merge = (
        record.word("split_type", ("copy", "split", None), "copy"),
        record.word("merge_type", ("add", "concat", None), "add"),
    )
    bn = record.flag("has_branch_bn", False)
    record.only("path_drop_rate", 0, 0.0, default=0)
    edges, children = record.take("edges"), record.take("child_nodes")
    if not isinstance(edges, list) or not isinstance(children, list) or not edges or len(edges) != len(children):
        raise InvalidError(record.at("edges"), "and child_nodes are no lists of equal length, 1 or more")
    parts = split_channels(c_in, len(edges)) if split == "split" else [c_in] * len(edges)
    branches = []
    for i, (edge, child, c) in enumerate(zip(edges, children, parts, strict=True)):
        unit, width, now = _unit_or_none(edge, f"{record.at('edges')}.{i}", c, size)
        below = None if child is None else _node(Record(child, f"{record.at('child_nodes')}.{i}"), width, now)[0]
        branches.append(BranchConfig(edge=unit, child=below))
    node = NodeConfig(branches=tuple(branches), split=split or "none", merge=merge or "none", branch_bn=bn)
    try:
        c_out, size_out = node.shape(c_in, size)
    except InvalidError as error:
        raise InvalidError(record.at("edges"), error.found, error.expected) from None
    record.equal("out_channels", c_out)
    record.end()
    return node, c_out, size_out


def _unit_or_none(value: Any, place: str, c_in: int, size: int) -> tuple[UnitConfig | None, int, int]:
    return (None, c_in, size) if value is None else _unit(value, place, c_in, size)


def _unit(value: Any, place: str, c_in: int, size: int) -> tuple[UnitConfig, int, int]:
    """Reads a layer of a tree network. Returns it with its output's channels and size."""
    record = Record(value, place)
    kind = KINDS[record.word("name", tuple(KINDS))]
    weights = kind in ("conv", "depthwise")
    record.equal("in_channels", c_in)
    width = record.number("out_channels", 1)
    bn = record.flag("use_bn", weights)
    acts = {key: ours for key, ours in ACTIVATIONS.items() if key != "h_swish"}
    act = acts[record.word("act_func", tuple(acts), "relu" if weights else None)]
    fields: dict[str, Any] = {"kind": kind, "bn": bn, "activation": act, "dropout": record.rate("dropout_rate")}
    fields["order"] = record.word("ops_order", ORDERS, "weight_bn_act")
    if kind == "pool":
        fields["pool"] = record.word("pool_type", ("avg", "max"))
    if kind != "identity":
        fields["kernel"] = record.number("kernel_size", 1, 3 if weights else 2)
        fields["stride"] = record.number("stride", 1, 1 if weights else 2)
    if weights:
        fields |= {"width": width, "dilation": record.number("dilation", 1, 1), "groups": record.number("groups", 1, 1)}
        fields |= {"bias": record.flag("bias", False), "shuffle": record.flag("has_shuffle", False)}
    record.end()
    unit = made(UnitConfig, record, **fields)
    try:
        c_out, size_out = unit.shape(c_in, size)
    except InvalidError as error:
        names = {"kernel": "kernel_size", "width": "out_channels"}
        raise InvalidError(record.at(names.get(error.where, error.where)), error.found, error.expected) from None
    if c_out != width:
        raise InvalidError(record.at("out_channels"), f"got {width}", f"{c_out}, which the layers before it give")
    return unit, c_out, size_out


def written_tree(chain: Chain) -> dict[str, Any]:
    config = chain.config
    if config.bn != BNConfig(**TREE_BN):
        raise InvalidError("bn", f"got eps {config.bn.eps}, momentum {config.bn.momentum}", "1e-5 and 0.1")
    if config.feature_mix is not None or config.classifier.hidden is not None:
        raise InvalidError("feature_mix", "is there", "null, and no hidden layer, beside blocks of a tree")
    c, size, blocks = config.input_channels, config.input_size, []
    for i, block in enumerate((config.stem, *config.blocks)):
        if not isinstance(block, TransitionConfig | TreeConfig):
            raise InvalidError(f"blocks.{i}", f"is '{block.op}'", "transition or tree, beside other such blocks")
        blocks.append(_written_tree_block(block, c, size))
        c, size = block.shape(c, size)
    if size != 1:
        raise InvalidError("classifier", f"its input has {size} x {size} pixels", "1 x 1")
    return {"name": TREE, "blocks": blocks, "classifier": written_linear(config.classifier, c, "bn_act_weight")}


def _written_tree_block(block: TransitionConfig | TreeConfig, c: int, size: int) -> dict[str, Any]:
    if isinstance(block, TransitionConfig):
        layers = []
        for unit in block.units:
            layers.append(_written_unit(unit, c))
            c, size = unit.shape(c, size)
        return {"name": "TransitionBlock", "layers": layers}
    record: dict[str, Any] = {"name": "ResidualTreeBlock", "cell_drop_rate": 0, "final_bn": block.final_bn}
    record["shortcut"] = _written_unit(block.shortcut, c)
    record["in_bottle"] = None if block.into is None else _written_unit(block.into, c)
    c, size = (c, size) if block.into is None else block.into.shape(c, size)
    record["cell"] = _written_node(block.cell, c, size)
    c, size = block.cell.shape(c, size)
    record["out_bottle"] = None if block.out is None else _written_unit(block.out, c)
    return record


def _written_node(node: NodeConfig, c_in: int, size: int) -> dict[str, Any]:
    edges, children = [], []
    for branch, c in zip(node.branches, node.inputs(c_in), strict=True):
        edges.append(None if branch.edge is None else _written_unit(branch.edge, c))
        width, now = (c, size) if branch.edge is None else branch.edge.shape(c, size)
        children.append(None if branch.child is None else _written_node(branch.child, width, now))
    return {
        "name": "TreeNode", "in_channels": c_in, "out_channels": node.shape(c_in, size)[0],
        "split_type": None if node.split == "none" else node.split,
        "merge_type": None if node.merge == "none" else node.merge, "has_branch_bn": node.branch_bn,
        "path_drop_rate": 0, "edges": edges, "child_nodes": children,
    }  # fmt: skip


def _written_unit(unit: UnitConfig, c_in: int) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in KINDS.items()}
    record: dict[str, Any] = {"name": names[unit.kind]}
    if unit.kind == "pool":
        record["pool_type"] = unit.pool
    if unit.kind != "identity":
        record |= {"kernel_size": unit.kernel, "stride": unit.stride}
    if unit.kind in ("conv", "depthwise"):
        record |= {"dilation": unit.dilation, "groups": unit.groups, "bias": unit.bias, "has_shuffle": unit.shuffle}
    return record | {
        "in_channels": c_in, "out_channels": unit.width or c_in, "use_bn": unit.bn,
        "act_func": THEIRS[unit.activation], "dropout_rate": unit.dropout or 0, "ops_order": unit.order,
    }  # fmt: skip
