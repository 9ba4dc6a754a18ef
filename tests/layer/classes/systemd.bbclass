# A stub of OE-Core's class: just enough for the parser.
SYSTEMD_PACKAGES ??= "${PN}"
SYSTEMD_AUTO_ENABLE ??= "enable"
