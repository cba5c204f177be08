"""What pyproject.toml cannot say: compiled modules are built if a C compiler is at hand."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(name, [f"src/{name.replace('.', '/')}.pyx"], optional=True)
        for name in ("puffs.attach.fuse._compiled", "puffs.refuse._inodes", "puffs.refuse._paths")
    ]
)
