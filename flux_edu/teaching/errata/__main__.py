"""Write notebook 14 from the list of errata: `python -m flux_edu.teaching.errata`."""

from flux_edu.teaching.errata.notebook import PATH, generated

if __name__ == "__main__":
    PATH.write_text(generated(), encoding="utf-8", newline="\n")
    print(f"{PATH.name} written")
