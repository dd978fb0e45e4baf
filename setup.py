"""Packaging: metadata, requirements, and the configs and tools that travel inside the wheel."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """Read the version without importing the package, which the build environment could not."""
    return re.search(r"__version__ = '([^']+)'", (ROOT / 'slimdiff/version.py').read_text(encoding='utf-8')).group(1)


def requirements(name: str) -> list[str]:
    """Lines of requirements/<name>.txt, with its ``-r`` lines followed."""
    found = []
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            found += requirements(line[3:].strip().removesuffix('.txt'))
        elif line:
            found.append(line)
    return found


def optional_extras() -> dict[str, list[str]]:
    """Extras of requirements/optional.txt: a line ``# [name]`` starts the extra ``name``."""
    extras, name = {}, None
    for line in (ROOT / 'requirements/optional.txt').read_text(encoding='utf-8').splitlines():
        if heading := re.fullmatch(r'# \[([\w-]+)\]', line.strip()):
            name = heading.group(1)
        elif requirement := line.partition('#')[0].strip():
            extras.setdefault(name, []).append(requirement)
    return extras


class BuildWithConfigs(build_py):
    """Copy configs/, tools/ and model-index.yml to slimdiff/.mim/ in the wheel, where OpenMMLab's tools look too.

    Tools that import studies/, which is not in the wheel, stay out.
    """

    def run(self) -> None:
        super().run()
        if getattr(self, 'editable_mode', False):
            return  # an editable install uses those of the checkout
        bundle = Path(self.build_lib) / 'slimdiff' / '.mim'
        shutil.rmtree(bundle, ignore_errors=True)
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, bundle / folder,
                            ignore=shutil.ignore_patterns('__pycache__', '*.pyc', '.*', 'work_dirs'))
        for tool in (bundle / 'tools').rglob('*.py'):
            if re.search(r'^\s*from studies\b', tool.read_text(encoding='utf-8'), re.MULTILINE):
                tool.unlink()
        shutil.copy(ROOT / 'model-index.yml', bundle)


extras = optional_extras()
extras['all'] = sorted({requirement for extra in extras.values() for requirement in extra})
extras['tests'] = requirements('tests')
extras['docs'] = requirements('docs')

setup(
    name='slimdiff',
    version=version(),
    description='Train, distil and sample slim diffusion models: wavelet-gated UNets and spectrum-aware distillation.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author='slimdiff authors',
    license='Apache-2.0',
    keywords='diffusion models, distillation, wavelets, slimmable networks, computer vision',
    packages=find_packages(include=['slimdiff', 'slimdiff.*']),
    include_package_data=True,
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require=extras,
    entry_points={'console_scripts': ['slimdiff = slimdiff.cli.main:main']},
    cmdclass={'build_py': BuildWithConfigs},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
