"""``cogview upscale``: upscale images 2 or 4 times with a super-resolution model."""

from __future__ import annotations

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import IMAGES, DecodingOptions, ImagePaths, OutputOptions, grouped
from cogview.cli.output import SavedImages, bar, check_folder
from cogview.config import Config
from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.task_requests import UpscaleRequest, check_times


class Inputs(Config):
    """The images to upscale."""

    images: ImagePaths = IMAGES


@grouped()
def upscale(args: Inputs, request: UpscaleRequest, options: DecodingOptions, output: OutputOptions) -> None:
    """Upscale images, generating the detail they do not show.

    Examples:

      cogview upscale cat.png --prompt "a cat" --times 4 -o out/

      cogview generate "a red apple" --seed 7 -o out/ && cogview upscale out/a-red-apple-7-00.png

    Every result is a PNG file, named after its original, that contains its settings.
    Transparent images are placed on white; of an animation, the first frame is used.
    """
    images = args.images
    if not images:
        raise CogViewError("give the images to upscale")
    batch_size = options.batch_size
    check_folder(output.out)
    family = ModelBundle.find(options.model, "upscale")
    check_times(family, request.times)
    saved, pipeline = SavedImages(output.out), options.open(family)

    def save(image: GeneratedImage) -> None:
        saved.save(image, f"{images[len(saved.images)].stem}-x{request.times}")

    with bar("upscaling") as show, saved.report_interrupt():
        pipeline.upscale(list(images), **dict(request), batch_size=batch_size, progress=show, callback=save)
    pictures = [
        {
            "path": str(path),
            "original": str(original),
            "prompt": result.prompt,
            "seed": result.seed,
            "width": result.image.width,
            "height": result.image.height,
            "settings": result.settings,
        }
        for original, (result, path) in zip(images, saved.images, strict=True)
    ]
    saved.report(output.as_json, pictures=pictures)
