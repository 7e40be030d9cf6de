"""Packaging lives in setup.cfg; here is what it cannot say: the tick's machine code, which is left out where there is no C compiler."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kallglot_ari.media._tick",
            ["kallglot_ari/media/tick.c"],
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off"],
            optional=True,
        )
    ]
)
