"""Does what `proxyless-nas import` does (proxyless_nas/commands/import_table.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("import")
