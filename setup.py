"""Map the top-level folders into the one import namespace ``gifdex`` (see README.md, "Layout")."""

import os
import sysconfig

from setuptools import Extension, find_packages, setup

PARTS = ("schemas", "encoders", "index", "pipeline", "jobs")

package_dir = {"gifdex": "api"}
for part in PARTS:
    package_dir[f"gifdex.{part}"] = part
    for sub in find_packages(part):
        package_dir[f"gifdex.{part}.{sub}"] = f"{part}/{sub.replace('.', '/')}"

POSIX = os.name == "posix"
# One build for all versions of CPython, except free-threaded ones, which have no stable ABI yet.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")

kernels = Extension(
    "gifdex.index.kernels",
    ["index/kernels.c"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
    # Without fused multiply-add, results are the same on every processor.
    extra_compile_args=["-O3", "-ffp-contract=off"] if POSIX else ["/O2"],
    libraries=["m"] if POSIX else [],
    py_limited_api=STABLE,
)

setup(
    packages=sorted(package_dir),
    package_dir=package_dir,
    ext_modules=[kernels],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
