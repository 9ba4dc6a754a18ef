# Read only where the factory's layer, which has the image, is there.
CORE_IMAGE_BASE_INSTALL += "compose-apps-early-start"
