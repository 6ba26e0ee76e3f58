"""Get images into the node: build what changed, import what the node lacks."""

from collections.abc import Iterable

from . import containers, existing, programs, system_images
from .builder import BASE_CONTENT, BASE_IMAGE, Builder, require_buildah
from .containerfiles import PROJECT_IMAGES, ProjectImage, content_hash, select
from .errors import ClusterError
from .programs import Programs
from .progress import say, stage
from .settings import Settings
from .system_images import Archive, archive_path, prune


def import_cached(settings: Settings, built: Programs) -> None:
    """Import the system's images, and those of the project that are built already. Nothing is built here."""
    archives = system_images.prepare(settings, built)
    for image in PROJECT_IMAGES:
        if (settings.checkout / image.containerfile).is_file():
            archive = _archive(settings, image)
            if archive.path.exists():
                archives.append(archive)
    _import_missing(settings, archives)


def build_and_import(settings: Settings, names: Iterable[str]) -> None:
    """Build the images whose content changed and bring them into the cluster.

    Raises:
        ClusterError: A build failed, or there is no cluster to import into.
    """
    images = [image for image in select(names) if _has_containerfile(settings, image)]
    require_buildah()
    if settings.existing:
        _for_existing_cluster(settings, images)
        return
    if not containers.runtime_answers(settings):
        raise ClusterError("the cluster does not run", where=str(settings.state), todo="`python3 -m e2e.cluster up`")
    archives = _build_missing(settings, images)
    system = system_images.prepare(settings, programs.locate(settings))
    imported = _import_missing(settings, [*system, *archives])
    if not imported:
        say("all images are up to date")


def _has_containerfile(settings: Settings, image: ProjectImage) -> bool:
    if (settings.checkout / image.containerfile).is_file():
        return True
    say(f"skipping {image.name}: there is no {image.containerfile} in this checkout")
    return False


def _archive(settings: Settings, image: ProjectImage) -> Archive:
    content = content_hash(settings.checkout, image, BASE_CONTENT)
    return Archive(image.name, content, archive_path(settings, image.name, content))


def _build_missing(settings: Settings, images: Iterable[ProjectImage]) -> list[Archive]:
    builder, archives = Builder(settings), []
    with builder.locked():
        for image in images:
            archive = _archive(settings, image)
            if not archive.path.exists():
                builder.ensure_base()
                with stage(f"built {image.name}"):
                    builder.build(image, base=BASE_IMAGE)
                with stage(f"saved {image.name}"):
                    builder.save(image, archive.path)
                prune(archive.path, archive.content)
                builder.tidy()
            archives.append(archive)
    return archives


def _import_missing(settings: Settings, archives: Iterable[Archive]) -> list[str]:
    there = containers.imported(settings)
    missing = [archive for archive in archives if there.get(archive.name) != archive.content]
    for archive in missing:
        with stage(f"imported {archive.name}"):
            containers.import_image(settings, archive.name, archive.path, archive.content)
    return [archive.name for archive in missing]


def _for_existing_cluster(settings: Settings, images: Iterable[ProjectImage]) -> None:
    """Push to IMAGE_REGISTRY, or leave archives and say how kind and minikube take them."""
    builder, archives = Builder(settings), []
    with builder.locked():
        for image in images:
            with stage(f"built {image.name}"):
                builder.build(image, base="")  # the Containerfile's own public base
            if settings.registry:
                with stage(f"pushed {image.name}"):
                    say(f"  its name there: {builder.push(image, settings.registry)}")
            else:
                archive = _archive(settings, image)
                builder.save(image, archive.path)
                archives.append(archive.path)
        builder.tidy()
    if archives:
        say(existing.loading_instructions(archives))
