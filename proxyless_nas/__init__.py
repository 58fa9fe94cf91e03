"""Hardware-aware neural architecture search. `import proxyless_nas as pn` has all that a user of it calls."""
