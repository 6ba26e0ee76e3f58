"""Get images into the node: build what changed, import what the node lacks."""

from collections.abc import Iterable, Mapping

from . import containers, existing, system_images
from .builder import BASE_CONTENT, BASE_IMAGE, Builder, require_buildah
from .containerfiles import PROJECT_IMAGES, ProjectImage, content_hash, select
from .errors import ClusterError
from .image_store import ImageStore
from .programs import Programs
from .progress import say, stage
from .settings import Settings
from .system_images import Archive


def import_cached(settings: Settings, built: Programs) -> None:
    """Import the system's images, and those of the project that are built already. Nothing is built here."""
    _import_archives(settings, system_images.prepare(settings, built))
    store, contents = ImageStore(settings), {}
    for image in PROJECT_IMAGES:
        if (settings.checkout / image.containerfile).is_file():
            content = content_hash(settings.checkout, image, BASE_CONTENT)
            if store.has(image.name, content):
                contents[image.name] = content
    _import_stored(settings, contents)


def build_and_import(settings: Settings, names: Iterable[str]) -> None:
    """Build the images whose content changed and bring them into the cluster.

    Raises:
        ClusterError: A build failed, or there is no cluster to import into.
    """
    images = [image for image in select(names) if _has_containerfile(settings, image)]
    require_buildah()
    builder = Builder(settings)
    if settings.existing:
        with builder.locked():
            _for_existing_cluster(settings, builder, images)
        return
    if not containers.runtime_answers(settings):
        raise ClusterError("the cluster does not run", where=str(settings.state), todo="`python3 -m e2e.cluster up`")
    with builder.locked():  # over the import too: whoever waits here finds it done
        contents = _build_missing(settings, builder, images)
        imported = _import_stored(settings, contents)
    if not imported:
        say("all images are up to date")


def _has_containerfile(settings: Settings, image: ProjectImage) -> bool:
    if (settings.checkout / image.containerfile).is_file():
        return True
    say(f"skipping {image.name}: there is no {image.containerfile} in this checkout")
    return False


def _build_missing(settings: Settings, builder: Builder, images: Iterable[ProjectImage]) -> dict[str, str]:
    """Build what the store lacks; return each image's content hash by its name."""
    store, contents = ImageStore(settings), {}
    for image in images:
        content = content_hash(settings.checkout, image, BASE_CONTENT)
        if not store.has(image.name, content):
            builder.ensure_base()
            with stage(f"built {image.name}"):
                builder.build(image, base=BASE_IMAGE)
                builder.store(image, content, store)
            builder.tidy()
        contents[image.name] = content
    return contents


def _import_archives(settings: Settings, archives: Iterable[Archive]) -> None:
    there = containers.imported(settings)
    for archive in archives:
        if there.get(archive.name) != archive.content:
            with stage(f"imported {archive.name}"):
                containers.import_image(settings, archive.name, archive.path, archive.content)


def _import_stored(settings: Settings, contents: Mapping[str, str]) -> list[str]:
    """Import the project's images that the node lacks, each without the layers that it has."""
    there, store = containers.imported(settings), ImageStore(settings)
    missing = [name for name, content in contents.items() if there.get(name) != content]
    for name in missing:
        with stage(f"imported {name}"):
            _import_from_store(settings, store, name, contents[name])
    return missing


def _import_from_store(settings: Settings, store: ImageStore, name: str, content: str) -> None:
    try:
        with store.archive(name, content, without=containers.blobs(settings)) as archive:
            containers.import_image(settings, name, archive, content)
    except ClusterError:
        # containerd may have collected a layer between our question and the import: send everything.
        with store.archive(name, content) as archive:
            containers.import_image(settings, name, archive, content)


def _for_existing_cluster(settings: Settings, builder: Builder, images: Iterable[ProjectImage]) -> None:
    """Push to IMAGE_REGISTRY, or leave archives and say how kind and minikube take them."""
    archives = []
    for image in images:
        with stage(f"built {image.name}"):
            builder.build(image, base="")  # the Containerfile's own public base
        if settings.registry:
            with stage(f"pushed {image.name}"):
                say(f"  its name there: {builder.push(image, settings.registry)}")
        else:
            archive = settings.cache / "archives" / f"{image.short}.tar"
            builder.save(image, archive)
            archives.append(archive)
    builder.tidy()
    if archives:
        say(existing.loading_instructions(archives))
