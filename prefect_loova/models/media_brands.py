"""The media type of an ISO base media file (mp4, mov, HEIC, AVIF, ...), by the brands in its first box.

The brands are from the MP4 registration authority (mp4ra.org), ftyps.com and file(1), if they identify a type. A brand
that is not in this table is *unknown*; it does not mean mp4. See docs/decisions/0016-media-before-paying.md.
"""

from __future__ import annotations

_BRANDS = {
    "image/heic": "heic heix heim heis hevc hevx hevm hevs MiHA MiHB MiHE heoi",
    "image/heif": "mif1 mif2 msf1 miaf MiAC MiAn MiBu MiCm MiPr 1pic pred jpoi",
    "image/avif": "avif avis avio MA1A MA1B",
    "image/avci": "avci avcs MiAB",
    "image/vvic": "vvic vvis vvoi",
    "image/evc": "evbi evbs evmi evms",
    "image/jpeg-in-heif": "jpeg jpgs",
    "image/jp2": "jp2 jpx jpm J2P0 J2P1 j2ki j2is JP2 JP20",
    "image/jxl": "jxl",
    "image/jxs": "jxs jxsc jxsi jxss",
    "image/jxr": "jpxb",
    "image/x-canon-cr3": "crx",
    "audio/mp4": "M4A M4B M4P F4A F4B NDAS caac caaa cama camc casu ca4m ca4s ceac cabl cmhm cmhs dts1 dts2 dts3 ifaa "
    "iamf oa2d oabl da0a da0b da1a da1b da2a da2b da3a da3b",
    "audio/vnd.audible.aax": "aax aaxc",
    "video/mj2": "mj2s mjp2 j2ks",
    "video/3gpp2": "KDDI",
    "video/quicktime": "qt mqt",
    "video/mp4": "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 isoa isob isoc mp41 mp42 mmp4 avc1 av01 hvc1 hev1 "
    "M4V M4VH M4VP F4V F4P f4v dash dsms msdh msix sims cmfc cmf2 cmff cmfl cmfs piff ccff uvvu "
    "cfhd cfsd chdf chd1 chd2 chh1 chhd cint clg1 clg2 csh1 cud1 cud2 cud8 cud9 db1p db2g db4h db4g dby1 "
    "ifsd ifhs ifhd ifhx ifhh ifhu ifhr ifas ifah ifai ifau ifav ifrm "
    "ARRI bbxm CAEP caqv CDes dxo LCAG MFSM MGSV MSNV NDSC NDSH NDSM NDSP NDSS NDXC NDXH NDXM NDXP NDXS niko pana "
    "pnvi ROSS sdv SEAU SEBK senv XAVC XFVC yt4 dmb1 dv1a dv1b dv2a dv2b dv3a dv3b ssc1 ssc2",
}
_TYPES = {brand.ljust(4).encode(): name for name, brands in _BRANDS.items() for brand in brands.split()}


def brand_of(head: bytes) -> str:
    """Return the major brand of an ISO base media file for messages, or an empty string without an `ftyp` box."""
    return head[8:12].decode("ascii", "replace") if head[4:8] == b"ftyp" else ""


def type_by_brand(head: bytes) -> str | None:
    """Return the media type of a file that begins with an `ftyp` box, or None if none of its brands is known.

    The major brand decides. If it is unknown, the compatible brands decide. Those of images come first, because an
    image may also list the brands of its container.
    """
    end = min(int.from_bytes(head[:4]), len(head))
    major, others = _type_of(head[8:12]), [_type_of(head[at : at + 4]) for at in range(16, end - 3, 4)]
    if major == "image/heif":  # the container of an image, not its codec
        return next((one for one in others if one and one.startswith("image/") and one != "image/heif"), major)
    if major:
        return major
    images = [one for one in others if one and one.startswith("image/")]
    return next((one for one in [*images, *others] if one), None)


def _type_of(brand: bytes) -> str | None:
    if brand.startswith(b"3g"):
        return "video/3gpp2" if brand.startswith(b"3g2") else "video/3gpp"
    return _TYPES.get(brand)
