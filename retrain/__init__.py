"""Trains networks, from scratch or further, and evaluates them.

- `config.py`: the YAML sections `retrain`, `retrain.augment`, `retrain.teacher`
- `run.py` runs a retraining in its folder; `inputs.py`: what it depends on, for the record of the run
- `loop.py`: the training loop; `recipe.py`: what a step needs; `passes.py`: the gradients of a batch, compiled or not
- `checkpoint.py`: what the steps change, to a checkpoint and back; `state.py`: what a checkpoint holds beside tensors
- `standing.py`: evaluations and the best epoch
- `start.py`: weights to begin with; `teacher.py`: networks to learn from
- `data.py`: the images in the shape of a network; `preprocessing.py`: how a checkpoint records their way into it
- `report.py`: curves, pictures and result.json, which `result.py` reads; `source.py`: which search the architecture
  came from
- `weights.py`: networks with the weights of a checkpoint; `evaluation.py`: their accuracy; `predict.py`: their classes
- `several.py`: many retrainings side by side
"""
