"""Packaging lives in setup.cfg; here is what it cannot say: the tick's machine code, left out where there is no C compiler."""

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class Library(build_ext):
    """It is loaded by ctypes, so that one file serves every Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": Library, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            "kallglot_ari.media._tick",
            ["kallglot_ari/media/tick.c"],
            depends=[f"kallglot_ari/media/{name}.h" for name in ("g722", "hurry", "originals", "pcm")],
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off"],
            libraries=["m"],
            optional=True,
        )
    ],
)
