"""Converts net.config, the JSON in which ProxylessNAS and once-for-all publish networks, to chains of layers and back.

Three classes of networks are read: ProxylessNASNets, MobileNetV3 (once-for-all) and PyramidTreeNet (the CIFAR-10
network). Reading is strict: every key is known, every number of channels is the one that flows there, and what a chain
cannot represent is refused by its field, such as `blocks.3.shortcut.name`.

A file comes in one of three dialects, which a chain remembers: `proxyless` (the paper's code), `ofa` (once-for-all's
published files: MBInvertedConvLayer with mid_channels, act_func and use_se) and `ofa2` (once-for-all's code today:
ResidualBlock, MBConvLayer). Writing keeps it; a network that the first one cannot express is written in the second.

The normal form (`normal_form`) of a net.config is what is written after reading it. It differs from the file only so:

- keys that a file leaves out are there, with the published classes' defaults; the order of keys is fixed
- a whole number in a list ([24], as once-for-all writes an identity's channels) is the number
- an inverted residual without expansion has expand_ratio 1 and mid_channels null; another one has mid_channels as a
  number and expand_ratio = mid_channels / in_channels, null if that is 1
- a zero block has an identity shortcut and stride 1, and a ZeroLayer as a shortcut is null: they compute the same
- `bn` has momentum and eps; without it, as in the published readers, 0.1 and 1e-3, of a MobileNetV3 0.1 and 1e-5
- a tree network's tree_node_config, cell_drop_rate and cell_drop_scheme are left out; they must be neutral

Modules: `conversion.py` reads and writes whole files, `mobile.py` the first two classes, `tree.py` the third, and
`layers.py` the layers that all of them have; `names.py` has the words of the format.
"""
