"""Map the top-level folders into the one import namespace ``gifdex`` (see README.md, "Layout")."""

import os

from setuptools import Extension, find_packages, setup

PARTS = ("schemas", "encoders", "index", "pipeline", "jobs")

package_dir = {"gifdex": "api"}
for part in PARTS:
    package_dir[f"gifdex.{part}"] = part
    for sub in find_packages(part):
        package_dir[f"gifdex.{part}.{sub}"] = f"{part}/{sub.replace('.', '/')}"

kernels = Extension(
    "gifdex.index.kernels",
    ["index/kernels.c"],
    # Without fused sums, the same numbers come out on every processor.
    extra_compile_args=["-O3", "-ffp-contract=off"] if os.name == "posix" else ["/O2"],
    py_limited_api=True,
)

setup(
    packages=sorted(package_dir),
    package_dir=package_dir,
    ext_modules=[kernels],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
