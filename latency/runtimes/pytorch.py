from __future__ import annotations
import time
from itertools import pairwise
import torch
from torch import nn
from supernet.blocks import Block, build_op, isolated_rng, init_weights
class Opened:
    def __init__(self, modules, images, inside): self.modules,self.images,self.inside=modules,images,inside
    def run(self,n):
        for _ in range(n):
            x=self.images
            for m in self.modules: x=m(x)
    def times(self,n):
        return [self._inside() if self.inside else self._whole() for _ in range(n)]
    def _whole(self):
        t=time.perf_counter_ns(); x=self.images
        for m in self.modules: x=m(x)
        return (time.perf_counter_ns()-t)/1e6
    def _inside(self):
        s=[time.perf_counter_ns()]; x=self.images
        for m in self.modules:
            x=m(x); s.append(time.perf_counter_ns())
        return [(b-a)/1e6 for a,b in pairwise(s)]
    def close(self): pass
