from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = sorted(Path("bundles").glob("*_chain_classification"))
# each bundle is a package of its own that holds data only, so that bundles/build.py stays out of the wheel
BUNDLES = {f"monai_weckd.bundles.{folder.name}": folder.as_posix() for folder in FOLDERS}

setup(
    packages=[*find_packages(include=["monai_weckd*"]), *BUNDLES],
    package_dir=BUNDLES,
    package_data={
        "monai_weckd": ["py.typed"],
        "monai_weckd.apps.label": ["page/*"],
        "monai_weckd.visualize": ["*.jinja"],
        **{name: ["LICENSE", "configs/*", "docs/*", "networks/*.py"] for name in BUNDLES},
    },
)
