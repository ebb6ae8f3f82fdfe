"""Map the top-level folders into the one import namespace ``gifdex`` (see README.md, "Layout")."""

from setuptools import find_packages, setup

PARTS = ("schemas", "encoders", "index", "pipeline", "jobs")

package_dir = {"gifdex": "api"}
for part in PARTS:
    package_dir[f"gifdex.{part}"] = part
    for sub in find_packages(part):
        package_dir[f"gifdex.{part}.{sub}"] = f"{part}/{sub.replace('.', '/')}"

setup(packages=sorted(package_dir), package_dir=package_dir)
