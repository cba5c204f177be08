"""What pyproject.toml cannot say: the compiled loop is built if a C compiler is at hand."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "puffs.attach.fuse._compiled",
            ["src/puffs/attach/fuse/_compiled.pyx"],
            optional=True,
        )
    ]
)
