"""Titles of columns and counters in the languages of Windows, in the English words that ``columns`` knows.

The words are those that Windows itself uses for its pools (performance counters, Task Manager, documentation) in
German, French, Spanish, Italian, Portuguese, Russian, Chinese, Japanese and Korean, and the plain words of these
languages for the columns of poolmon.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from typing import Pattern, Tuple

from pykdext.records.patternliterals import find_literals

_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\W]+")
_FOREIGN_TIMES = re.compile(
    r"[上下]午|午[前後]|[週周][一二三四五六日]|星期[一二三四五六日]|[月火水木金土日]曜日|오[전후]|요일|\d年|\d月|\d日"
    r"|januar|märz|février|août|июн|июл|мая"
)
_LATIN_END = 0x250
_CJK_START = "\u1100"

# In this order: what holds another word stands before it ("nonpaged" before "paged", "per" before "bytes").
_TRANSLATIONS: Tuple[Tuple[str, str], ...] = (
    (
        "pagefile",
        r"auslagerungsdatei\w*|fichier d ?echange|archivo de paginacion|file di paging|подкачк\w*|页面文件",
    ),
    (
        "nonpaged",
        r"\bnicht ?(?:auslager|ausgelager)\w*|\bnon ?(?:di ?)?pagin[ae]\w*|\bnon di paging\b"
        r"|\bno ?pagin\w+|\bnao ?pagin\w+|не ?выгружаем\w*(?: страничн\w*)?|[非未]分[页頁]|页?非换页|非[页頁]面"
        r"|非ページ(?:化|ド)?|非ページング|비 ?페이[징지]\w*",
    ),
    (
        "paged",
        r"\b(?:auslager|ausgelager)\w*|\bpagin[ae](?!t?i?on|ment)\w*|\bdi paging\b|\bpaginav\w+"
        r"|выгружаем\w*(?: страничн\w*)?|страничн\w*|分[页頁]|换页|[页頁]面(?=[缓緩]?[冲衝存]?池|缓冲|集區)"
        r"|ページ(?:化|ド|ング)?(?! ?(?:フォ|ファ))|페이[징지]",
    ),
    (
        "pool",
        r"\bbloque\b|\breserve\b|\bgrupo\b|пул\w*|内存池|記憶體集區|集區|池|プール|풀",
    ),
    (
        "per",
        r"\b(?:pro|je|par|por|per|durchschnitt\w*|moyenne?|promedio|media)\b|\bна\b|средн\w*|每|平均"
        r"|あたり|当たり|평균|\b당",
    ),
    (
        "limit",
        r"\w*grenze\b|\w*limit\w*|\blimite\b|предел\w*|上限|限制|制限|제한",
    ),
    (
        "available",
        r"\bverfugbar\w*|\bdisponib\w+|\bdisponiv\w+|доступн\w*|可用|利用可能\w*|사용 ?가능\w*",
    ),
    (
        "committed",
        r"\bzugesichert\w*|\bzusage|\bzusicherungs|\bvalidee?s?\b|\bmemoire dediee\b|\bconfirma\w+"
        r"|\bvincolat\w*|\bcommit\b|выделенн\w* виртуальн\w*|已?提交|[认認]可|コミット\w*|커밋\w*",
    ),
    ("before", r"\b(?:vorher|davor|avant|antes|prima)\b|\bдо\b|之前|以前|이전"),
    ("after", r"\b(?:nachher|danach|apres|despues|depois|dopo)\b|\bпосле\b|之后|之後|以後|이후"),
    (
        "tag",
        r"\b(?:pool)?etikett\b|\bkennzeichen\b|\bbalise\b|\betiqu?eta\b|\betiquette\b|\betichetta\b"
        r"|\brotulo\b|\bmarcas?\b|\bmarcador\b|\bт[еэ]г\b|\bметка\b|[标標][记記签籤]|タグ|태그",
    ),
    (
        "type",
        r"\btyp\b|\btipo\b|\bтип\b|类型|類型|種類|種別|タイプ|유형|종류|형식",
    ),
    (
        "diff",
        r"\bdifferenz\b|\bunterschied\b|\bausstehend\w*|\bdifferences?\b|\becart\b|\bdiferenc\w+"
        r"|\bpendiente\w*|\bdifferenza\b|разниц\w*|разност\w*|差[异異值额額分]?|차이?\b",
    ),
    (
        "frees",
        r"\bfreigabe\w*|\bfreigegeben\w*|\bliberati?ons?\b|\bliberees?\b|\bliberacion\w*|\bliberad\w+"
        r"|\bliberazion\w*|\brilasc\w+|\bdeallocazion\w*|\bliberacao\b|\bliberacoes\b|\blibertac\w+"
        r"|\bdesaloca\w+|освобожд\w*|释放|釋放|解放|해제",
    ),
    (
        "allocs",
        r"\bzuweisung\w*|\bzugewiesen\w*|\bbelegungen\b|\breservierung\w*|\balloue\w*|\basignacion\w*"
        r"|\basignad\w+|\ballocazion\w*|\balocac\w+|\balocad\w+|\batribuic\w+|выделен\w*|распределен\w*"
        r"|分配|配置|割り?当て\w*|確保|할당",
    ),
    (
        "bytes",
        r"\boctets?\b|\bgross?e\b|\bgrosse\b|\btaille\b|\btaman\w+|\bdimension[ei]\b|байт\w*|размер\w*"
        r"|объем\w*|字节数?|字節數?|位元組數?|大小|バイト数?|サイズ|바이트\w*|크기",
    ),
    (
        "used",
        r"\bbelegt\w*|\bverwendet\w*|\bbenutzt\w*|\butilisee?s?\b|\busad[oa]s?\b|\butilizad\w+"
        r"|\busat[oia]\b|\butilizzat\w*|использ\w*|занят\w*|已?使用|已用|占用|使用中?|사용",
    ),
    (
        "count",
        r"\banzahl\b|\bnombre\b|\bcantidad\b|\bnumero\b|\bconteggio\b|\bquantidade\b|\bcontagem\b"
        r"|количеств\w*|число|[数數]量|[计計][数數]|[个個][数數]|개수",
    ),
    (
        "current",
        r"\baktuell\w*|\bactuel\w*|\bactual\w*|\battual\w*|\batua\w+|текущ\w*|当前|目前|現在|현재",
    ),
    (
        "driver",
        r"\btreiber\b|\bpilote\b|\bcontrolador\b|драйвер\w*|[驱驅][动動]程?[序式]?|ドライバー?|드라이버",
    ),
    (
        "time",
        r"\bzeit(?:punkt|stempel)?\b|\buhrzeit\b|\bheure\b|\bhorodatage\b|\bhora\b|\bfecha\b|\bora\b"
        r"|\bdatum\b|время|дата|时间|時間|時刻|日時|日期|시간|날짜",
    ),
    (
        "host",
        r"\brechner\b|\bordinateur\b|\bequipo\b|\bcomputador\b|компьютер\w*|计算机|電腦|コンピューター?"
        r"|컴퓨터",
    ),
    (
        "memory",
        r"\barbeitsspeicher\b|\bspeicher\b|\bmemoire\b|\bmemoria\b|памят\w*|内存|記憶體|メモリ|메모리",
    ),
)


@cache
def _list_patterns() -> Tuple[Tuple[Pattern[str], str], ...]:
    """Compiled when the first title is translated: most sources have none."""
    return tuple((re.compile(pattern), f" {english} ") for english, pattern in _TRANSLATIONS)


@cache
def _list_signs() -> Tuple[str, ...]:
    """What stands in a word where a pattern matches: of texts with blanks their longest words."""
    texts = (text for _, pattern in _TRANSLATIONS for text in find_literals(pattern))
    return tuple(dict.fromkeys(max(text.split(), key=len, default="") for text in texts))


@lru_cache(maxsize=1 << 14)
def _may_be_foreign(word: str) -> bool:
    return any(sign in word for sign in _list_signs())


@lru_cache(maxsize=1 << 12)
def english_words(title: str) -> str:
    """Lower-case English words with one blank between them: ``NonPagedUsedBytes`` is ``non paged used bytes``."""
    words = _WORD_BORDER.sub(" ", unicodedata.normalize("NFKC", title)).lower()
    plain = words if words.isascii() else "".join(map(_drop_accent, words)).replace("ё", "е")
    if any(not word.isdecimal() and _may_be_foreign(word) for word in plain.split()):
        for pattern, english in _list_patterns():
            plain = pattern.sub(english, plain)
    return " ".join(plain.split())


def count_foreign_words(text: str) -> int:
    """How many different known words of other languages than English stand in a text, of those not plain ASCII.

    Words of three letters, or two Chinese, Japanese or Korean characters, at least; words of dates count, too.
    """
    words = text.lower()
    found = {match[0] for pattern, _ in _list_patterns() for match in pattern.finditer(words)}
    found |= set(_FOREIGN_TIMES.findall(words))
    return sum(not word.isascii() and len(word) >= (2 if max(word) >= _CJK_START else 3) for word in found)


def _drop_accent(character: str) -> str:
    """A Latin letter without its accent; letters of other scripts as they are."""
    if character == "ß":
        return "ss"
    if ord(character) >= _LATIN_END:
        return character
    return unicodedata.normalize("NFD", character)[0]
