"""Holds what search and retrain share. It imports no other package of this project.

Settings and the command line:

- `config.py`: reads YAML files into frozen models; `yaml_dialect.py`: which YAML is read
- `shipped.py`: finds the configurations that come with the package
- `run_config.py`: the section `run`, and the bounds of settings
- `arguments.py`: parses the command line

Errors and messages:

- `errors.py`: the errors that a user can mend; `wording.py`: puts pydantic's errors into one line
- `nearest.py`: the name or the path that was probably meant
- `imagenet.py`: ImageNet's classes, whose names and WordNet ids are the same
- `memory.py`: explains allocations that failed
- `progress.py`: progress bars and the log
- `quantities.py`: numbers with their units as text; `percent.py`: texts such as `50%`

Files:

- `files.py`: reads any file, and writes files that stay whole if the process is killed
- `runs/`: the folder of a run, its lock, its inputs and its checkpoints; `stages.py` runs a job of several stages
- `curves/`: metrics.jsonl and what TensorBoard shows

Images: `data/`

Computing:

- `device.py`: the device, its memory format and precision
- `training.py`: a step of the weights; `evaluation.py`: accuracy, loss and BN statistics of a network
- `seeding.py`: seeds and generators

Several processes:

- `distributed.py`: the processes that share a run, and what they exchange
- `job.py`: how the processes that torchrun has started begin and end together
- `interrupts.py`: Ctrl-C and SIGTERM between steps
- `processes.py`: a function on several arguments, each in a process
- `queue.py`: a queue of programs on the CPU and the GPUs; `children.py`: the runs of a sweep in it
"""
