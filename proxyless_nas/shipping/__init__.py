"""Takes a network from the latency table to the files of runtimes, in stages of one folder: `proxyless-nas ship`.

- `config.py`: the YAML file of the whole job
- `job.py`: runs the stages, or checks what they have made
- `stages.py`: the stages, from the latency table to the report; engine/runs/stages.py runs them
- `files_on_images.py`: runs exported files on the test images
- `verification.py`: computes every recorded number again
"""
