# A stub of OE-Core's class: just enough for the parser, and where it packages the files.
PACKAGES += "${PN}-bash-completion"
FILES:${PN}-bash-completion = "${datadir}/bash-completion"
