"""Takes a network from the latency table to the files of runtimes, in stages of one folder: `proxyless-nas ship`.

- `config.py`: the YAML file of the whole job
- `job.py`: runs the stages, or checks what they have made
- `folder.py`: what every stage is given, and the names of the files in the job's folder
- `training.py`, `deployment.py`: the stages from the latency table to the evaluation, and those that write the files of
  runtimes and time them
- `stages.py`: all stages; engine/runs/stages.py runs them
- `images.py`: notices that the images have changed
- `files_on_images.py`: runs exported files on the test images
- `verification.py`: computes every recorded number again
"""
