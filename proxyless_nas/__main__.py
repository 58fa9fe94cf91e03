"""`python -m proxyless_nas` is the command `proxyless-nas`."""

from proxyless_nas.commands import main

if __name__ == "__main__":
    main()
